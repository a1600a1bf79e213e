"""A ridge regression, whose hypergradient is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.problems import LowerProblem, UpperProblem

FEATURES = 20


class Vector(nn.Module):
    """One float64 vector as a module."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.clone())


class RidgeLower(LowerProblem):
    """Mean squared error plus ``sum(exp(E) V^2)``: ridge regression with a log-regularisation a feature."""

    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        weights, log_penalty = self.module.value, self.upper.module.value
        return ((inputs @ weights - targets) ** 2).mean() + (log_penalty.exp() * weights**2).sum()


class RidgeUpper(UpperProblem):
    """Mean squared error on the other data, plus a direct dependence on E."""

    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return ((inputs @ self.lower.module.value - targets) ** 2).mean() + 0.1 * (self.module.value**2).sum()


@dataclass
class Ridge:
    """A wired ridge problem, and what is needed for its closed forms."""

    engine: BilevelEngine
    lower: RidgeLower
    upper: RidgeUpper
    lower_data: tuple[Tensor, Tensor]
    upper_data: tuple[Tensor, Tensor]

    def v(self) -> Tensor:
        """Return d_V L2 at the lower parameters as they are now."""
        inputs, targets = self.upper_data
        return 2 * inputs.T @ (inputs @ self.lower.module.value.detach() - targets) / len(targets)


@pytest.fixture
def make_ridge() -> Callable[..., Ridge]:
    """Make a ridge problem; nothing of it has stepped yet."""

    def make(hypergradient: Any, *, learning_rate: float = 0.05, lower_config: Config | None = None) -> Ridge:
        torch.manual_seed(0)
        data = [(torch.randn(40, FEATURES).double(), torch.randn(40).double()) for _ in range(2)]
        below = Vector(torch.randn(FEATURES).double())
        above = Vector(0.3 * torch.randn(FEATURES).double())
        lower = RidgeLower(
            "lower",
            lower_config or Config(unroll_steps=max(1, build_hypergradient(hypergradient).needs.steps)),
            below,
            torch.optim.SGD(below.parameters(), lr=learning_rate),
            None,
            [data[0]],
        )
        upper = RidgeUpper("upper", Config(), above, torch.optim.SGD(above.parameters(), lr=0.0), None, [data[1]])
        engine = BilevelEngine(lower, upper, steps=4, hypergradient=hypergradient, device="cpu")
        return Ridge(engine, lower, upper, *data)

    return make
