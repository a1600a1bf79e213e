"""The factor of the learning rate: its derivative against differences, its answer, its bounds, and its state."""

import math

import pytest
import torch
from torch import Tensor, nn

from bilora.problems.variants.learned_rate import LARGEST, SMALLEST, LearnedRate


def upper_loss(parameters: list[Tensor]) -> Tensor:
    return sum(((parameter - 1.0) ** 2).sum() for parameter in parameters) + parameters[0].prod()  # type: ignore[return-value]


def stepped(log_factor: float) -> list[Tensor]:
    """Two tensors after the third of three steps of AdamW, which alone has the factor."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64)) for size in (3, 2)]
    optimizer = torch.optim.AdamW([{"params": [weight]} for weight in weights], lr=0.05, weight_decay=4.0)
    for step in range(3):
        for weight in weights:
            weight.grad = torch.sin(3 * weight.detach()) + 0.1 * step
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (math.exp(log_factor) if step == 2 else 1.0)
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
    return [*before, *weights]


@pytest.mark.parametrize("log_factor", [0.0, -1.0, 1.5])
def test_the_derivative_of_one_step_is_that_of_differences(log_factor: float) -> None:
    states = stepped(log_factor)
    before, after = tuple(states[:2]), tuple(states[2:])
    vector = torch.autograd.grad(upper_loss(list(after)), after)
    found = LearnedRate(share=0.5).double().implicit_term(vector, before, after, steps=1)
    width = 1e-5
    ends = [upper_loss(stepped(log_factor + sign * width)[2:]).item() for sign in (1, -1)]
    assert found.item() == pytest.approx((ends[0] - ends[1]) / (2 * width), rel=1e-7)
    twice = LearnedRate(share=0.5).double().implicit_term(vector, before, after, steps=2)
    assert twice.item() == pytest.approx(2 * found.item())


def noted(steps: int, *, move: float, share: float = 0.5) -> LearnedRate:
    rate = LearnedRate(share=share)
    for _ in range(steps):
        with torch.no_grad():
            rate.log_factor.add_(move)
        rate.note()
    return rate


def test_the_answer_is_the_mean_of_the_last_half() -> None:
    rate = noted(10, move=-0.1)
    assert rate.answer() == pytest.approx(math.exp(-0.8))  # of -0.6 to -1.0
    assert rate.factor() == pytest.approx(math.exp(-1.0))
    assert noted(10, move=-0.1, share=0.0).answer() == pytest.approx(math.exp(-1.0))
    assert LearnedRate(share=0.5).answer() == 1.0


@pytest.mark.parametrize(("move", "bound"), [(-1.0, SMALLEST), (1.0, LARGEST)])
def test_it_stays_within_its_bounds(move: float, bound: float) -> None:
    assert noted(10, move=move).factor() == pytest.approx(bound)


def test_its_path_is_part_of_its_state() -> None:
    rate, again = noted(10, move=-0.1), LearnedRate(share=0.5)
    again.load_state_dict(rate.state_dict())
    assert (again.answer(), again.factor()) == (rate.answer(), rate.factor())
