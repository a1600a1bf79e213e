"""Stages on parts of the rows, by a plan of their own: what they read, start from and end with, which are refused."""

from collections.abc import Callable
from itertools import chain
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.errors import DataError, SettingsError
from bilora.problems.levels.out_of_memory import OutOfMemory
from bilora.problems.stage import Stage, Watch
from bilora.problems.variant import Variant

Fit = Callable[..., Any]


@pytest.fixture
def fit_plan(make_engine: Any) -> Fit:
    """Fit a fresh pair by a plan of stages over its lower level."""

    def run(*stages: dict[str, Any], callbacks: Any = (), **options: Any) -> Any:
        level = make_engine().lower_level
        plan = tuple(Stage(lower=type(level), **stage) for stage in stages)
        variant = Variant("planned", type(level), None, dict, lambda model, *_, **__: model, plan=lambda _: plan)
        rows = [{"row": row, "labels": row % 2} for row in range(40)]
        batches = LevelSettings(batch_size=4, learning_rate=0.1)
        settings = FitSettings(**{"steps": 16, "device": "cpu", "lower": batches, "upper": batches, **options})
        result = fit(
            level.module, rows, collate=default_collate, variant=variant, settings=settings, callbacks=callbacks
        )
        return level.module, result

    return run


def test_stages_on_the_two_parts_share_one_split(fit_plan: Fit) -> None:
    """The part of the upper level is trained with its settings, for its number of steps."""
    model, result = fit_plan({"name": "first", "rows": "lower"}, {"name": "second", "rows": "upper"}, unroll_steps=2)
    (split,) = result.splits
    seen = model.seen["lower"]
    assert len(seen) == 16 + 8
    assert set(chain(*seen[:16])) == set(split.lower)
    assert set(chain(*seen[16:])) == set(split.upper)


def test_a_fresh_stage_starts_from_the_values_before_the_run(fit_plan: Fit) -> None:
    starts: list[Tensor] = []

    class Watcher(Callback):
        def on_stage_start(self, engine: Any) -> None:
            starts.append(engine.lower_level.module.below.detach().clone())

    fit_plan({"name": "a"}, {"name": "b", "fresh": True}, {"name": "c"}, callbacks=[Watcher()])
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


@pytest.mark.parametrize(("patience", "stopped"), [(1, True), (100, False)])
def test_a_watching_stage_ends_with_its_best_loss_on_the_other_part(
    fit_plan: Fit, patience: int, stopped: bool
) -> None:
    looks: list[tuple[int, float]] = []
    snapshots: dict[int, Tensor] = {}

    class Look(Callback):
        def on_step(self, engine: Any, record: Any) -> None:
            snapshots[record.step] = engine.lower_level.module.below.detach().clone()

        def on_stage_end(self, engine: Any) -> None:
            looks.extend(engine.callbacks[-1].losses)

    stage = {"name": "watched", "rows": "lower", "watch": Watch(every=2, patience=patience)}
    model, result = fit_plan(stage, callbacks=[Look()], steps=60)
    best = min(looks, key=lambda look: look[1])[0]
    assert result.best_step == best
    assert torch.equal(model.below, snapshots[best])
    assert (result.stop_reason is not None) == stopped
    # Looking reads D2.
    assert set(chain(*model.seen["lower"])) == set(range(40))


@pytest.mark.parametrize(
    ("stages", "options", "error", "words"),
    [
        ([{"name": "a"}] * 2, {}, SettingsError, "method 'planned' has two stages of one name: a, a"),
        ([{"name": "a", "steps": 0}], {}, SettingsError, "steps is 0; .* must be at least 1"),
        (
            [{"name": "first", "rows": "lower"}, {"name": "second", "rows": "upper"}],
            {"steps": 3},
            SettingsError,
            "stage 'second' makes the steps of an upper level, .* there are none",
        ),
        (
            [{"name": "a", "rows": "upper"}],
            {"upper": LevelSettings(batch_size=9)},
            DataError,
            "the upper part has 8 rows, fewer than a batch of 9",
        ),
    ],
)
def test_plans_that_cannot_be_run_are_refused_before_the_first_step(
    fit_plan: Fit, stages: Any, options: Any, error: type[Exception], words: str
) -> None:
    callback = Mock(spec=Callback, must_work=True)
    with pytest.raises(error, match=words):
        fit_plan(*stages, callbacks=[callback], **options)
    callback.on_run_start.assert_not_called()


def test_out_of_memory_on_d2_alone_names_the_batch_of_the_upper_level(fit_plan: Fit) -> None:
    class Full(Callback):
        def on_stage_start(self, engine: Any) -> None:
            engine.lower_level.training_step = Mock(side_effect=MemoryError)

    with pytest.raises(OutOfMemory, match=r"level 'lower'. Halve upper.batch_size and double upper.accumulation"):
        fit_plan({"name": "a", "rows": "upper"}, callbacks=[Full()])
