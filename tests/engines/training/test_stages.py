"""Stages on parts of the rows, by a plan of their own: what they read, start from and end with, which are refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.errors import DataError, SettingsError
from bilora.problems.levels.out_of_memory import OutOfMemory
from bilora.problems.stage import Stage, Watch
from bilora.problems.variant import Variant

Fit = Callable[..., Any]


def rows_of(batches: list[list[int]]) -> set[int]:
    return {row for batch in batches for row in batch}


@pytest.fixture
def fit_plan(make_engine: Any) -> Fit:
    """Fit a fresh pair by a plan of stages over its lower level."""
    levels = make_engine()
    pair_class, lower_class = type(levels.lower_level.module), type(levels.lower_level)

    def collate(rows: Any) -> dict[str, Tensor]:
        return {name: torch.tensor([row[name] for row in rows]) for name in ("row", "labels")}

    def run(*stages: dict[str, Any], **options: Any) -> Any:
        batches = LevelSettings(batch_size=4, learning_rate=0.1)
        plan = tuple(Stage(lower=lower_class, **each) for each in stages)
        variant = Variant("planned", lower_class, None, dict, lambda model, *_, **__: model, plan=lambda _: plan)
        callbacks = options.pop("callbacks", ())
        model = pair_class()
        result = fit(
            model,
            [{"row": row, "labels": row % 2} for row in range(40)],
            collate=collate,
            variant=variant,
            settings=FitSettings(**{"steps": 16, "device": "cpu", "lower": batches, "upper": batches, **options}),
            callbacks=callbacks,
        )
        return model, result

    return run


def test_stages_on_the_two_parts_share_one_split(fit_plan: Fit) -> None:
    """The part of the upper level is trained with its settings, for its number of steps."""
    model, result = fit_plan({"name": "first", "rows": "lower"}, {"name": "second", "rows": "upper"}, unroll_steps=2)
    (split,) = result.splits
    seen = model.seen["lower"]
    assert len(seen) == 16 + 8
    assert rows_of(seen[:16]) == set(split.lower)
    assert rows_of(seen[16:]) == set(split.upper)


def test_a_fresh_stage_starts_from_the_values_before_the_run(fit_plan: Fit) -> None:
    starts: list[Tensor] = []

    class Watcher(Callback):
        def on_stage_start(self, engine: Any) -> None:
            starts.append(engine.lower_level.module.below.detach().clone())

    first, second, third = {"name": "a"}, {"name": "b", "fresh": True}, {"name": "c"}
    fit_plan(first, second, third, callbacks=[Watcher()])
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
    # Looking reads D2 and draws nothing: the training is that of a stage that does not look.
    read = model.seen["lower"]
    assert rows_of(read) == set(range(40))


def test_two_stages_of_one_name(fit_plan: Fit) -> None:
    with pytest.raises(SettingsError, match="method 'planned' has two stages of one name: a, a"):
        fit_plan({"name": "a"}, {"name": "a"})


def test_a_first_stage_without_steps(fit_plan: Fit) -> None:
    with pytest.raises(SettingsError, match="steps is 0; .* must be at least 1"):
        fit_plan({"name": "a", "steps": 0})


def test_a_stage_that_would_make_no_step_is_refused_before_the_first(fit_plan: Fit) -> None:
    started: list[Any] = []

    class Started(Callback):
        def on_run_start(self, engine: Any) -> None:
            started.append(engine)

    with pytest.raises(SettingsError, match="stage 'second' makes the steps of an upper level, .* there are none"):
        fit_plan(
            {"name": "first", "rows": "lower"}, {"name": "second", "rows": "upper"}, steps=3, callbacks=[Started()]
        )
    assert started == []


def test_too_few_rows_for_a_part(fit_plan: Fit) -> None:
    with pytest.raises(DataError, match="the upper part has 8 rows, fewer than a batch of 9"):
        fit_plan({"name": "a", "rows": "upper"}, upper=LevelSettings(batch_size=9))


def test_out_of_memory_on_d2_alone_names_the_batch_of_the_upper_level(fit_plan: Fit) -> None:
    class Full(Callback):
        def on_stage_start(self, engine: Any) -> None:
            engine.lower_level.training_step = exhausted

    def exhausted(batch: Any) -> Any:
        raise MemoryError

    with pytest.raises(OutOfMemory, match=r"level 'lower'. Halve upper.batch_size and double upper.accumulation"):
        fit_plan({"name": "a", "rows": "upper"}, callbacks=[Full()])
