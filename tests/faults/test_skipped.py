"""Row 12, the optional policy: up to k steps in a row that are not finite are left out, and the run goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bilora.commands.exit_codes import DIVERGED, code_of
from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import LevelSettings
from bilora.errors import DivergedError

Run = Callable[..., Any]
BATCHES = LevelSettings(batch_size=4, accumulation=2, learning_rate=1e-2)
WARNED = r"step \d of level '\w+' is skipped, 1 in a row of at most 1 \(skip_diverged\): "


def moved_by_a_step(level: Any) -> list[Tensor]:
    """Return parameters and optimizer state of a level."""
    held = [each for state in level.optimizer.state.values() for each in state.values()]
    return [each.detach().clone() for each in (*level.trainable_parameters(), *held)]


def nan_once(owner: Any, name: str, *, broken: Callable[[Any], Any]) -> None:
    """Let the next call of a method give what ``broken`` makes of its result, and no call after it."""
    original = getattr(owner, name)

    def first(*given: Any) -> Any:
        object.__setattr__(owner, name, original)
        return broken(original(*given))

    object.__setattr__(owner, name, first)  # hypergradients are frozen


def nan_loss(level: Any) -> None:
    nan_once(level, "loss_and_parts", broken=lambda found: (found[0] * torch.nan, found[1]))


def nan_term(engine: Any) -> None:
    broken = lambda term: tuple(tensor * torch.nan for tensor in term)  # noqa: E731
    nan_once(engine.upper_level.hypergradient, "implicit_term", broken=broken)


HARM: dict[str, Callable[[Any], None]] = {
    "lower": lambda engine: nan_loss(engine.lower_level),
    "upper": lambda engine: nan_loss(engine.upper_level),
    "hypergradient": nan_term,
}


class AroundStepSix(Callback):
    """Does harm before step 6, which an upper step follows, and keeps what the levels are before and after it."""

    must_work = True

    def __init__(self, where: str) -> None:
        self.where = where
        self.kept: dict[int, dict[str, list[Tensor]]] = {}

    def on_step(self, engine: Any, record: Any) -> None:
        if record.step in (5, 6):
            self.kept[record.step] = {level.name: moved_by_a_step(level) for level in engine.levels}
        if record.step == 5:
            HARM[self.where](engine)

    def unmoved(self, level: str) -> bool:
        return all(torch.equal(a, b) for a, b in zip(self.kept[5][level], self.kept[6][level], strict=True))


@pytest.mark.parametrize("batches", [LevelSettings(batch_size=8, learning_rate=1e-2), BATCHES], ids=["one", "two"])
@pytest.mark.parametrize("where", HARM)
def test_a_step_that_is_not_finite_moves_nothing_and_is_told(run: Run, where: str, batches: LevelSettings) -> None:
    """With two micro-batches a step, one of them alone is harmed: the first below, the second above."""
    watch = AroundStepSix(where)
    options = {"lower": batches, "upper": batches, "unroll_steps": 2 // batches.accumulation, "skip_diverged": 1}
    with pytest.warns(RuntimeWarning, match=WARNED) as warned:
        ended = run(callbacks=[watch], **options)
    # A hypergradient through a step that was skipped is not finite either.
    skipped = ["lower", "upper"] if where == "lower" else ["upper"]
    assert [watch.unmoved(level) for level in ("lower", "upper")] == [where == "lower", True]
    assert [each.category for each in warned].count(RuntimeWarning) == len(skipped)
    assert (ended.result.skipped_steps, ended.result.skipped_upper_steps) == (len(skipped) - 1, 1)
    assert all(torch.isfinite(each).all() for each in ended.parameters().values())
    lines = ended.lines()
    told = [(line["step"], name) for line in lines for name in ("lower", "upper") if f"{name}_skipped" in line]
    assert told == [(6, name) for name in skipped]
    assert lines[5]["hypergradient_norm"] is None
    assert (lines[5]["lower_loss"] is None) == (where == "lower")
    found = json.loads((ended.folder / "skipped-6.json").read_text(encoding="utf-8"))
    assert (found["step"], found["skipped"]) == (6, skipped)
    micro_batches = found["batches"]["lower"] if batches is BATCHES else [found["batches"]["lower"]]
    assert sum(len(each["labels"]) for each in micro_batches) == 8


def test_a_level_that_looks_further_back_passes_the_step_over(run: Run) -> None:
    """``unrolled`` differentiates what was done, and in a skipped step nothing was."""
    with pytest.warns(RuntimeWarning, match=WARNED):
        ended = run(skip_diverged=1, hypergradient={"name": "unrolled", "steps": 2}, callbacks=[AroundStepSix("lower")])
    assert (ended.result.skipped_steps, ended.result.skipped_upper_steps) == (1, 0)


class Broken(Callback):
    """Every lower loss from some step on is no number."""

    def __init__(self, first: int) -> None:
        self.first = first

    def on_stage_start(self, engine: Any) -> None:
        level = engine.lower_level
        original = level.loss_and_parts

        def loss_and_parts(batch: Any) -> Any:
            loss, parts = original(batch)
            return (loss * torch.nan if engine.step >= self.first else loss), parts

        level.loss_and_parts = loss_and_parts


@pytest.mark.filterwarnings("ignore:step . of level")
def test_one_more_in_a_row_ends_the_run_and_a_resume_counts_on(run: Run, tmp_path: Path) -> None:
    options = {"steps": 12, "unroll_steps": 12, "skip_diverged": 2, "save_every": 1}
    said = "level 'lower', step 7: .* The 2 steps of it before were skipped already. The batches are in"
    with pytest.raises(DivergedError, match=said) as told:
        run(callbacks=[Broken(5)], **options)
    assert code_of(told.value) == DIVERGED
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    with pytest.raises(DivergedError, match=said):
        run(callbacks=[Broken(5)], resume=True, **options)


@pytest.mark.filterwarnings("ignore:step . of level")
def test_a_step_in_between_begins_a_new_row(run: Run, faults: Any) -> None:
    harms = [faults.at(step, lambda engine: nan_loss(engine.lower_level)) for step in (2, 4, 6)]
    ended = run(unroll_steps=8, skip_diverged=1, callbacks=harms)
    assert ended.result.skipped_steps == 3


def test_fp16_can_go_on_after_a_loss_that_is_no_number(run: Run) -> None:
    with pytest.warns(RuntimeWarning, match=WARNED):
        ended = run(precision="fp16", skip_diverged=1, callbacks=[AroundStepSix("lower")])
    assert ended.result.skipped_steps == 1
    assert all(torch.isfinite(each).all() for each in ended.parameters().values())
