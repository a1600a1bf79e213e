"""A loss or gradient that is not finite stops the run; what that step would have moved is as it was."""

import copy
import itertools
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


def spoil(level: Level, *, good: int, how: Callable[[Tensor], Tensor]) -> None:
    """Let a level's loss turn bad after ``good`` calls."""
    inner, calls = level.training_step, itertools.count(1)

    def training_step(batch: Any) -> Any:
        loss = inner(batch)
        return loss if next(calls) <= good else how(loss)

    level.training_step = training_step  # type: ignore[method-assign]


def infinite_gradient(loss: Tensor) -> Tensor:
    """A finite loss with an infinite gradient: sqrt at zero."""
    return (loss - loss.detach()).abs().sqrt()


def times_nan(loss: Tensor) -> Tensor:
    return loss * math.nan


def refused(ridge: Any, level: Level, match: str, *, good: int = 0) -> None:
    """After so many good micro-batches under AdamW and a schedule, make a step that is refused and moves nothing."""
    level.optimizer = AdamW(level.trainable_parameters(), lr=0.01)
    level.learning_rate_scheduler = StepLR(level.optimizer, step_size=1, gamma=0.9)
    if good:
        ridge.run(good)

    def state() -> list[Any]:
        parameters = [parameter.detach() for parameter in level.trainable_parameters()]
        return copy.deepcopy([parameters, level.optimizer.state_dict(), level.learning_rate_scheduler.state_dict()])

    before = state()
    with pytest.raises(DivergedError, match=match):
        ridge.run(1)
    torch.testing.assert_close(state(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("how", "match"),
    [(times_nan, "loss nan"), (lambda loss: loss * math.inf, "loss inf"), (infinite_gradient, "loss 0.0, .*(inf|nan)")],
)
@pytest.mark.parametrize("name", ["lower", "upper"])
def test_nothing_of_the_level_moves(make_ridge: MakeRidge, name: str, how: Any, match: str) -> None:
    ridge = make_ridge()
    level = getattr(ridge, name)
    spoil(level, good=2, how=how)
    refused(ridge, level, f"level '{name}', step 3: {match}.*no parameter was moved", good=2)


def test_nan_in_one_micro_batch_is_enough(make_ridge: MakeRidge) -> None:
    ridge = make_ridge(lower_config=Config(gradient_accumulation=3))
    spoil(ridge.lower, good=4, how=times_nan)
    # The fifth micro-batch is bad, the step ends with the sixth.
    refused(ridge, ridge.lower, "level 'lower', step 2: loss nan", good=5)


def test_v_that_is_not_finite_never_reaches_the_hypergradient(make_ridge: MakeRidge, stub: Any) -> None:
    """The loss is finite here, and so is the direct gradient; v alone is not."""
    ridge = make_ridge(hypergradient=stub())
    ridge.upper.training_step = lambda batch: infinite_gradient(ridge.V).sum() + (ridge.E**2).sum()
    refused(ridge, ridge.upper, "level 'upper', step 1: loss .*gradient in the lower parameters (nan|inf)")
    assert ridge.upper.hypergradient.vectors == []


def test_the_step_of_an_accumulating_upper_level_is_counted_from_one(make_ridge: MakeRidge) -> None:
    ridge = make_ridge(upper_config=Config(gradient_accumulation=4))
    spoil(ridge.upper, good=5, how=times_nan)
    with pytest.raises(DivergedError, match="level 'upper', step 2: loss nan"):
        ridge.run(6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_implicit_term_that_is_not_finite(make_ridge: MakeRidge, stub: Any, bad: float) -> None:
    ridge = make_ridge(hypergradient=stub(answer=lambda vector, lower: (torch.full_like(vector[0], bad),)))
    refused(ridge, ridge.upper, f"level 'upper', step 1: loss .*gradient norm {bad}")
