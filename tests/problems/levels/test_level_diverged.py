"""A loss or gradient that is not finite stops the run; what that step would have moved is as it was."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import StepLR

from bilora.errors import DivergedError
from bilora.problems import Level

MakeRidge = Callable[..., Any]


class Spoilt:
    """A training step that turns bad after ``good`` calls."""

    def __init__(self, level: Level, *, good: int, how: Callable[[Tensor], Tensor]) -> None:
        self.inner, self.good, self.how = level.training_step, good, how

    def __call__(self, batch: Any) -> Tensor:
        self.good -= 1
        loss: Tensor = self.inner(batch)
        return loss if self.good >= 0 else self.how(loss)


def infinite_gradient(loss: Tensor) -> Tensor:
    """A finite loss with an infinite gradient: sqrt at zero."""
    return (loss - loss.detach()).abs().sqrt()


def with_adamw(level: Level) -> None:
    """Give a level an optimizer and a schedule with a state worth keeping."""
    level.optimizer = AdamW(level.trainable_parameters(), lr=0.01)
    level.learning_rate_scheduler = StepLR(level.optimizer, step_size=1, gamma=0.9)


def state(level: Level) -> list[Any]:
    parameters = [parameter.detach() for parameter in level.trainable_parameters()]
    return copy.deepcopy([parameters, level.optimizer.state_dict(), level.learning_rate_scheduler.state_dict()])


def refused(ridge: Any, level: Level, match: str) -> None:
    """Make a step that is refused, and of which nothing of the level has moved."""
    before = state(level)
    with pytest.raises(DivergedError, match=match):
        ridge.run(1)
    torch.testing.assert_close(state(level), before, rtol=0, atol=0)


BAD = [
    (lambda loss: loss * math.nan, "loss nan"),
    (lambda loss: loss * math.inf, "loss inf"),
    (infinite_gradient, "loss 0.0, .*(inf|nan)"),
]


@pytest.mark.parametrize(("how", "match"), BAD)
@pytest.mark.parametrize("name", ["lower", "upper"])
def test_nothing_of_the_level_moves(make_ridge: MakeRidge, name: str, how: Any, match: str) -> None:
    ridge = make_ridge()
    level = getattr(ridge, name)
    with_adamw(level)
    level.training_step = Spoilt(level, good=2, how=how)
    ridge.run(2)
    refused(ridge, level, f"level '{name}', step 3: {match}.*no parameter was moved")


def test_nan_in_one_micro_batch_is_enough(make_ridge: MakeRidge) -> None:
    ridge = make_ridge(lower_config=Config(gradient_accumulation=3))
    with_adamw(ridge.lower)
    ridge.lower.training_step = Spoilt(ridge.lower, good=4, how=lambda loss: loss * math.nan)
    ridge.run(5)  # the fifth micro-batch is bad, the step ends with the sixth
    refused(ridge, ridge.lower, "level 'lower', step 2: loss nan")


def test_v_that_is_not_finite_never_reaches_the_hypergradient(make_ridge: MakeRidge, stub: Any) -> None:
    """The loss is finite here, and so is the direct gradient; v alone is not."""
    ridge = make_ridge(hypergradient=stub())
    with_adamw(ridge.upper)
    below = ridge.lower

    def training_step(batch: Any) -> Tensor:
        zero = below.module.value - below.module.value.detach()
        loss: Tensor = zero.abs().sqrt().sum() + (ridge.upper.module.value**2).sum()
        return loss

    ridge.upper.training_step = training_step
    refused(ridge, ridge.upper, "level 'upper', step 1: loss .*gradient in the lower parameters (nan|inf)")
    assert ridge.upper.hypergradient.vectors == []


def test_the_step_of_an_accumulating_upper_level_is_counted_from_one(make_ridge: MakeRidge) -> None:
    ridge = make_ridge(upper_config=Config(gradient_accumulation=4))
    ridge.upper.training_step = Spoilt(ridge.upper, good=5, how=lambda loss: loss * math.nan)
    with pytest.raises(DivergedError, match="level 'upper', step 2: loss nan"):
        ridge.run(6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_implicit_term_that_is_not_finite(make_ridge: MakeRidge, stub: Any, bad: float) -> None:
    ridge = make_ridge(hypergradient=stub(answer=lambda vector, lower: (torch.full_like(vector[0], bad),)))
    with_adamw(ridge.upper)
    refused(ridge, ridge.upper, f"level 'upper', step 1: loss .*gradient norm {bad}")
