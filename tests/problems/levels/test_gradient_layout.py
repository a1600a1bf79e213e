"""Gradients as they lie in memory: torch's fused optimizers step along them without a look at their strides."""

from __future__ import annotations

from collections.abc import Callable

import torch
from betty.configs import Config
from torch import Tensor, nn

from bilora.problems import LowerProblem
from bilora.tensors import laid_out_like


class Tall(nn.Module):
    """A tall matrix that its loss takes transposed, and whose gradient autograd therefore gives transposed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left = nn.Parameter(torch.randn(5, 2).double())

    def loss(self) -> Tensor:
        target = torch.arange(10.0).double().reshape(2, 5)
        return ((self.left.T.contiguous() - target) ** 2).mean()


class TallLevel(LowerProblem):
    def training_step(self, batch: Tensor) -> Tensor:
        return self.module.loss()  # type: ignore[no-any-return]


def test_autograd_gives_this_gradient_transposed() -> None:
    module = Tall()
    (gradient,) = torch.autograd.grad(module.loss(), [module.left])
    assert gradient.stride() != module.left.stride()


def test_a_fused_optimizer_steps_as_one_that_is_not(train: Callable[[LowerProblem, int], None]) -> None:
    ended = []
    for fused in (True, False):
        module = Tall()
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=fused)
        train(TallLevel("lower", Config(gradient_accumulation=2), module, optimizer, None, [torch.zeros(1)]), 6)
        ended.append(module.left.detach())
    assert torch.allclose(ended[0], ended[1], rtol=1e-12, atol=0.0)


def test_values_stay_in_their_places() -> None:
    gradient = torch.arange(6.0).reshape(3, 2).T
    assert torch.equal(laid_out_like(gradient, torch.zeros(2, 3)), gradient)
    assert laid_out_like(gradient, gradient.clone()) is gradient
