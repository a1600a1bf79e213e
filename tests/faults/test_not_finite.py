"""Row 12: a number that is not finite ends the run, or up to k such steps in a row are left out (skip_diverged)."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import BATCHES, HALVED, Adapted, At, Run, trained
from torch import Tensor

from bilora import level_parameters
from bilora.commands.exit_codes import DIVERGED, code_of
from bilora.engines.callbacks.callback import Callback
from bilora.engines.checkpoints.files import fault
from bilora.engines.settings import LevelSettings
from bilora.errors import DivergedError

WARNED = r"step \d of level '\w+' is skipped, 1 in a row of at most 1 \(skip_diverged\): "


def break_calls(owner: Any, name: str, broken: Callable[[Any], Any], *, once: bool) -> None:
    """Let a method give what ``broken`` makes of its result: in its next call alone, or in all."""
    original = getattr(owner, name)

    def call(*given: Any) -> Any:
        if once:
            object.__setattr__(owner, name, original)
        return broken(original(*given))

    object.__setattr__(owner, name, call)  # hypergradients are frozen


def nan_loss(engine: Any, *, level: str, once: bool = False) -> None:
    break_calls(getattr(engine, level), "loss_and_parts", lambda pair: (pair[0] * torch.nan, pair[1]), once=once)


nan_lower, nan_upper = partial(nan_loss, level="lower_level"), partial(nan_loss, level="upper_level")


def nan_term(engine: Any, *, once: bool = False) -> None:
    broken = lambda term: tuple(tensor * torch.nan for tensor in term)  # noqa: E731
    break_calls(engine.upper_level.hypergradient, "implicit_term", broken, once=once)


@torch.no_grad()
def nan_parameter(engine: Any) -> None:
    engine.lower_level.trainable_parameters()[0].view(-1)[0] = torch.nan


HARM: dict[str, Callable[..., None]] = {"lower": nan_lower, "upper": nan_upper, "hypergradient": nan_term}


@pytest.mark.parametrize("harm", [*HARM.values(), nan_parameter])
def test_a_number_that_is_none_stops_the_run_before_the_step(
    run: Run, tmp_path: Path, harm: Callable[[Any], None]
) -> None:
    on, before = Adapted(), {}

    def harm_and_look(engine: Any) -> None:
        harm(engine)
        before.update(trained(on.model))

    with pytest.raises(DivergedError, match="no parameter was moved by this step") as told:
        run(on=on, callbacks=[At(5, harm_and_look)], save_every=2)
    assert str(tmp_path / "run" / "checkpoint-4") in str(told.value)
    assert fault(tmp_path / "run" / "checkpoint-4") is None
    # The harm is done after step 5, and the upper level steps after step 6: the lower one has stepped once by then.
    stepped = harm in (nan_upper, nan_term)
    upper = {id(weight) for weight in level_parameters(on.model).upper.values()}
    for name, weight in on.model.named_parameters():
        if weight.requires_grad and (not stepped or id(weight) in upper):
            assert torch.equal(weight.nan_to_num(), before[name].nan_to_num()), name
        assert torch.isfinite(weight).all() or harm is nan_parameter
    batches = json.loads((tmp_path / "run" / "diverged.json").read_text(encoding="utf-8"))["batches"]
    assert set(batches) == {"lower", "upper"}
    assert len(batches["lower"]["labels"]) == 8


class AroundStepSix(Callback):
    """Does harm before step 6, which an upper step follows, and keeps what the levels are before and after it."""

    must_work = True

    def __init__(self, where: str) -> None:
        self.where = where
        self.kept: dict[int, dict[str, list[Tensor]]] = {}

    def on_step(self, engine: Any, record: Any) -> None:
        if record.step in (5, 6):
            self.kept[record.step] = {level.name: self.moved_by_a_step(level) for level in engine.levels}
        if record.step == 5:
            HARM[self.where](engine, once=True)

    def moved_by_a_step(self, level: Any) -> list[Tensor]:
        """Return parameters and optimizer state of a level."""
        held = [tensor for state in level.optimizer.state.values() for tensor in state.values()]
        return [tensor.detach().clone() for tensor in (*level.trainable_parameters(), *held)]

    def unmoved(self, level: str) -> bool:
        return all(torch.equal(a, b) for a, b in zip(self.kept[5][level], self.kept[6][level], strict=True))


@pytest.mark.parametrize("batches", [BATCHES, HALVED], ids=["one", "two"])
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
    assert [warning.category for warning in warned].count(RuntimeWarning) == len(skipped)
    assert (ended.result.skipped_steps, ended.result.skipped_upper_steps) == (len(skipped) - 1, 1)
    assert all(torch.isfinite(weight).all() for weight in trained(ended.model).values())
    lines = ended.lines()
    told = [(line["step"], name) for line in lines for name in ("lower", "upper") if f"{name}_skipped" in line]
    assert told == [(6, name) for name in skipped]
    assert lines[5]["hypergradient_norm"] is None
    assert (lines[5]["lower_loss"] is None) == (where == "lower")
    written = json.loads((ended.folder / "skipped-6.json").read_text(encoding="utf-8"))
    assert (written["step"], written["skipped"]) == (6, skipped)
    micro_batches = written["batches"]["lower"] if batches is HALVED else [written["batches"]["lower"]]
    assert sum(len(batch["labels"]) for batch in micro_batches) == 8


@pytest.mark.parametrize(
    ("options", "upper"), [({"hypergradient": {"name": "unrolled", "steps": 2}}, 0), ({"precision": "fp16"}, 1)]
)
def test_a_run_goes_on_after_a_loss_that_is_no_number(run: Run, options: dict[str, Any], upper: int) -> None:
    """Also where the level above looks further back: ``unrolled`` differentiates what was done, here nothing."""
    with pytest.warns(RuntimeWarning, match=WARNED):
        ended = run(skip_diverged=1, callbacks=[AroundStepSix("lower")], **options)
    assert (ended.result.skipped_steps, ended.result.skipped_upper_steps) == (1, upper)
    assert all(torch.isfinite(weight).all() for weight in trained(ended.model).values())


@pytest.mark.filterwarnings("ignore:step . of level")
def test_one_more_in_a_row_ends_the_run_and_a_resume_counts_on(run: Run, tmp_path: Path) -> None:
    options = {"steps": 12, "unroll_steps": 12, "skip_diverged": 2, "save_every": 1}
    said = "level 'lower', step 7: .* The 2 steps of it before were skipped already. The batches are in"
    with pytest.raises(DivergedError, match=said) as told:
        run(callbacks=[At(4, nan_lower)], **options)
    assert code_of(told.value) == DIVERGED
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    with pytest.raises(DivergedError, match=said):
        run(callbacks=[At(0, nan_lower)], resume=True, **options)


@pytest.mark.filterwarnings("ignore:step . of level")
def test_a_step_in_between_begins_a_new_row(run: Run) -> None:
    harms = [At(step, partial(nan_lower, once=True)) for step in (2, 4, 6)]
    ended = run(unroll_steps=8, skip_diverged=1, callbacks=harms)
    assert ended.result.skipped_steps == 3
