"""Levels from settings: the schedules of their learning rates, and how often the upper one steps."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.levels import upper_step_count
from bilora.errors import SettingsError

Fit = Callable[..., Any]


def rates_of_a_plain_loop(schedule: str, *, rate: float, steps: int, warmup: float) -> list[float]:
    """The learning rate of each step of ``optimizer.step(); scheduler.step()``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_scheduler(schedule, optimizer, num_warmup_steps=round(warmup * steps), num_training_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0.0, 0.25])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rates_are_those_of_a_plain_loop(
    fit_pair: Fit, schedule: str, accumulation: int, warmup: float
) -> None:
    """Warm-up is a share of the level's own steps, and a constant schedule warms up too."""
    shared: Any = {"schedule": schedule, "accumulation": accumulation, "batch_size": 4, "warmup": warmup}
    lower, upper = (LevelSettings(learning_rate=rate, **shared) for rate in (0.25, 0.5))
    fitted = fit_pair(steps=24, unroll_steps=3, lower=lower, upper=upper)
    below = [record.learning_rates for record in fitted.records.steps]
    above = [record.upper.learning_rates for record in fitted.records.steps if record.upper]
    plain = "constant_with_warmup" if schedule == "constant" else schedule
    expected = rates_of_a_plain_loop(plain, rate=0.25, steps=24, warmup=warmup)
    assert below == [(rate,) for rate in expected]
    first, second, *others = rates_of_a_plain_loop(plain, rate=0.5, steps=8, warmup=warmup)
    # Of the few upper steps none is lost to a rate of zero.
    assert above == [(rate,) for rate in (first or second, second, *others)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_one_upper_step_of_a_run_has_its_rate(fit_pair: Fit, schedule: str) -> None:
    """A warm-up of a part of it rounds up to all of it."""
    upper = LevelSettings(learning_rate=0.5, schedule=schedule, batch_size=4)
    (step,) = (record.upper for record in fit_pair(steps=4, unroll_steps=4, upper=upper).records.steps if record.upper)
    assert step.learning_rates == (0.5,)


def test_levels_take_their_own_settings(fit_pair: Fit) -> None:
    seen: dict[str, Any] = {}

    class Watch(Callback):
        def on_run_end(self, engine: BilevelEngine) -> None:
            seen.update({level.name: level for level in engine.levels})

    fit_pair(
        lower=LevelSettings(batch_size=4, weight_decay=0.5, gradient_clipping=0.25),
        upper=LevelSettings(batch_size=2, accumulation=2, weight_decay=0.0, gradient_clipping=0.0),
        callbacks=[Watch()],
    )
    lower, upper = seen["lower"], seen["upper"]
    assert type(lower.optimizer) is type(upper.optimizer) is torch.optim.AdamW
    for level, decay, clipping, accumulation in ((lower, 0.5, 0.25, 1), (upper, 0.0, 0.0, 2)):
        assert level.optimizer.param_groups[0]["weight_decay"] == decay
        assert (level.gradient_clipping, level.gas) == (clipping, accumulation)


GRID = list(itertools.product([6, 11, 12], [1, 3, 4], [0, 3, 4, 5], [1, 2], [1, 2]))


@pytest.mark.parametrize(("steps", "unroll", "warmup", "below", "above"), GRID)
def test_upper_step_count_is_what_the_engine_makes(
    fit_pair: Fit, steps: int, unroll: int, warmup: int, below: int, above: int
) -> None:
    lower, upper = (LevelSettings(batch_size=2, accumulation=accumulation) for accumulation in (below, above))
    settings: Any = {"steps": steps, "unroll_steps": unroll, "warmup_steps": warmup, "lower": lower, "upper": upper}
    expected = upper_step_count(FitSettings(**settings))
    if expected == 0:
        with pytest.raises(SettingsError, match="the upper level steps for the first time at step"):
            fit_pair(**settings)
    else:
        assert fit_pair(**settings).result.upper_steps == expected


@pytest.mark.parametrize("accumulation", [1, 2])
def test_warm_up_holds_the_upper_level_back(fit_pair: Fit, accumulation: int) -> None:
    """It counts optimizer steps, not Betty's micro-batches."""
    lower = LevelSettings(batch_size=4, accumulation=accumulation)
    fitted = fit_pair(steps=12, unroll_steps=3, warmup_steps=5, lower=lower)
    assert [record.step for record in fitted.records.steps if record.upper] == [6, 9, 12]
