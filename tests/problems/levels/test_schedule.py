"""When which level steps: Betty's rule, and Betty itself on the same problem."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from betty.configs import Config
from betty.problems import ImplicitProblem

from bilora.problems import LowerProblem, UpperProblem
from bilora.tensors import Tensors

MakeRidge = Callable[..., Any]
OURS, STOCK = (LowerProblem, UpperProblem), (ImplicitProblem, ImplicitProblem)
MICRO_BATCHES = 36

# unroll steps, warm-up in micro-batches, accumulation below and above
SCHEDULES = [
    *[(1, 0, 1, 1), (3, 0, 1, 1), (2, 5, 1, 1), (2, 4, 1, 1), (1, 0, 4, 1)],
    *[(2, 0, 1, 3), (2, 7, 3, 2), (3, 6, 2, 1), (4, 36, 1, 1)],
]


def configs(unroll: int, warmup: int, below: int, above: int) -> tuple[Config, Config]:
    return (
        Config(unroll_steps=unroll, warmup_steps=warmup, gradient_accumulation=below),
        Config(gradient_accumulation=above),
    )


def upper_steps(ridge: Any) -> list[int]:
    """Run, and return at which lower steps the upper level's optimizer stepped."""
    steps: list[int] = []
    ridge.upper.param_callback = lambda: steps.append(ridge.lower.count // ridge.lower.gas)
    ridge.run(MICRO_BATCHES)
    return steps


def rule(unroll: int, warmup: int, below: int, above: int) -> list[int]:
    """At every (unroll * below)-th micro-batch past the warm-up an upper step; Betty's at every above-th of them."""
    turns = [micro for micro in range(1, MICRO_BATCHES + 1) if micro % (unroll * below) == 0 and micro > warmup]
    return [micro // below for micro in turns[above - 1 :: above]]


@pytest.mark.parametrize("kinds", [OURS, STOCK], ids=["ours", "Betty's"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_upper_steps_when_the_rule_says(
    make_ridge: MakeRidge, schedule: tuple[int, int, int, int], kinds: tuple[type, type]
) -> None:
    below, above = configs(*schedule)
    above.retain_graph = kinds is STOCK  # without it Betty cannot have a direct gradient
    ridge = make_ridge(lower_config=below, upper_config=above, kinds=kinds)
    *below_alone, accumulation = schedule
    assert upper_steps(ridge) == rule(*below_alone, accumulation if kinds is STOCK else 1)
    assert kinds is STOCK or ridge.upper.count == accumulation * len(rule(*below_alone, 1))
    assert ridge.lower.count == MICRO_BATCHES


def exact(vector: Tensors, lower: LowerProblem) -> Tensors:
    """-d2_{E,V} L1 . v = -2 exp(E) V v, at the parameters after the step, where Betty takes it."""
    (E,), (V,) = lower.upper_parameters(), lower.trainable_parameters()
    return ((-2 * E.exp() * V * vector[0]).detach(),)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_same_parameters_as_betty(make_ridge: MakeRidge, stub: Any, schedule: tuple[int, int, int, int]) -> None:
    """L1 is quadratic in V, so Betty's central difference is exact but for rounding."""
    if schedule[3] > 1:
        pytest.skip("Betty takes the micro-batches of an upper step at several answers of the lower level")
    below, above = configs(*schedule)
    ours = make_ridge(lower_config=below, upper_config=above, hypergradient=stub(answer=exact))
    theirs = make_ridge(lower_config=below, upper_config=replace(above, retain_graph=True), kinds=STOCK)
    start = ours.E.detach().clone()
    ours.run(MICRO_BATCHES)
    theirs.run(MICRO_BATCHES)
    torch.testing.assert_close(ours.V, theirs.V, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ours.E, theirs.E, rtol=1e-9, atol=1e-10)
    assert torch.equal(ours.E, start) == (rule(*schedule) == [])
