"""What of a checkpoint is taken to another number of processes, and how; process_scenarios.py does it."""

import itertools
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bilora.data.loaders import make_loader
from bilora.engines.checkpoints.processes import notice, parts_for, rescaled
from bilora.engines.checkpoints.run_state import Rescaled
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.errors import CheckpointError
from bilora.files.state import Packed, pack, unpack
from bilora.problems.levels.loader_position import LoaderPosition
from bilora.processes.processes import Processes, Share
from bilora.runs.config import RunConfig
from bilora.runs.folder import enter_run_folder
from bilora.settings.sections import resolved


def numbered(rank: int, count: int) -> Processes:
    processes = Processes()
    processes.rank, processes.count = rank, count
    return processes


def readers(count: int, *, batch_size: int) -> list[LoaderPosition]:
    options: dict[str, Any] = {"batch_size": batch_size, "seed": 3, "collate": list}
    loaders = [make_loader(range(48), **options, share=Share(rank, count)) for rank in range(count)]
    return [LoaderPosition(loader, level="lower") for loader in loaders]


def read(positions: list[LoaderPosition], state: dict[str, Any], *, batches: int | None = None) -> list[list[int]]:
    """Return the rows of the batches of all processes together, from a place on, and note how far that is."""
    rows = []
    for parts in itertools.islice(zip(*(position.reopened(state) for position in positions), strict=False), batches):
        for position in positions:
            position.read += 1
        rows.append([row for part in parts for row in part])
    return rows


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (4, 2), (2, 4), (3, 2), (1, 3)])
def test_no_row_of_an_epoch_is_read_again(before: int, now: int) -> None:
    """Each keeps its batch size, so that a batch of all has another one; what does not divide is rounded up."""
    then, here = readers(before, batch_size=4), readers(now, batch_size=4)
    first = read(then, then[0].state(), batches=3)
    goes_on = math.ceil(3 * Fraction(before, now))
    rest = read(here, {**then[0].state(), "read": goes_on})
    seen, left = sorted(sum(first, [])), sorted(sum(rest, []))
    assert not set(seen) & set(left)
    assert len(left) == 48 - goes_on * 4 * now
    if 3 * before % now == 0:
        assert sorted([*seen, *left]) == list(range(48))


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (4, 2)])
def test_batches_are_the_same_where_they_have_the_same_rows(before: int, now: int) -> None:
    then, here = readers(before, batch_size=8 // before), readers(now, batch_size=8 // now)
    read(then, then[0].state(), batches=2)
    place = then[0].state()
    assert read(here, place) == read(readers(before, batch_size=8 // before), place)


def levels(batch_size: int, accumulation: int = 1) -> FitSettings:
    level = LevelSettings(batch_size=batch_size, accumulation=accumulation)
    return FitSettings(lower=level, upper=level)


@pytest.mark.parametrize(
    ("then", "now", "counted", "taken_over"),
    [
        ((2, levels(8)), (1, levels(8)), Rescaled(batches=Fraction(2)), True),  # fewer rows a step
        ((1, levels(8)), (2, levels(8)), Rescaled(batches=Fraction(1, 2)), True),  # more of them
        ((2, levels(8)), (1, levels(16)), Rescaled(), True),  # the same batches
        ((2, levels(8)), (1, levels(8, 2)), Rescaled(2, Fraction(2)), True),  # the same rows, in two pieces
        ((1, levels(8, 2)), (2, levels(8)), Rescaled(Fraction(1, 2), Fraction(1, 2)), True),  # in one piece
        ((2, levels(8)), (1, levels(12)), Rescaled(batches=Fraction(4, 3)), False),
    ],
)
def test_batches_that_a_run_may_go_on_with(
    then: tuple[int, FitSettings], now: tuple[int, FitSettings], counted: Rescaled, taken_over: bool
) -> None:
    saved, counts = rescaled(resolved(then[1]), now[1], before=then[0], now=now[0])
    assert counts == {"lower": counted, "upper": counted}
    assert (saved == resolved(now[1])) == taken_over


def test_the_notice_says_which_steps_take_other_rows() -> None:
    assert "takes" not in notice(resolved(levels(8)), levels(16), before=2, now=1)
    words = notice(resolved(levels(8)), levels(8), before=2, now=4)
    assert "a step of the upper level takes 32 rows, and took 16" in words


def test_the_settings_of_a_run_s_folder_leave_batches_to_the_checkpoint(tmp_path: Path) -> None:
    larger = RunConfig(method="lora", lower=LevelSettings(batch_size=32))
    enter_run_folder(tmp_path / "run", RunConfig(method="lora"))
    (tmp_path / "run" / "checkpoint-4").mkdir()
    (tmp_path / "run" / "checkpoint-4" / "manifest.json").write_text(json.dumps({"processes": 2}))
    with pytest.raises(CheckpointError, match="lower.batch_size: 16 -> 32"):
        enter_run_folder(tmp_path / "run", larger, processes=2)
    assert enter_run_folder(tmp_path / "run", larger, processes=1)


def recorded(*batches: str, unfinished: Any = None) -> Packed:
    steps = [{"micro_batches": [{"batch": batch} for batch in batches], "clip": 0.5}]
    return pack({"steps": steps, "unfinished": unfinished, "buffers": []}, part="lower.recorded")


def of_two() -> dict[str, Packed]:
    """Return a state of two processes: of the first one's callbacks and the rest, what is equal stands once."""
    both = ["lower.optimizer", "random", "lower.recorded"]
    return {
        "lower.optimizer": pack("equal", part=""),
        "random": pack("first", part=""),
        "process-1.random": pack("second", part=""),
        "lower.recorded": recorded("a", "b"),
        "process-1.lower.recorded": recorded("c", "d"),
        "callback.MetricsFile": pack("of the first", part=""),
        "processes": pack([[*both, "callback.MetricsFile"], both], part=""),
    }


@pytest.mark.parametrize(
    ("rank", "count", "source"), [(0, 1, "first"), (0, 3, "first"), (1, 3, "second"), (2, 3, "second")]
)
def test_every_process_takes_a_whole_state(rank: int, count: int, source: str) -> None:
    state = parts_for(of_two(), numbered(rank, count), saved=2)
    assert ("callback.MetricsFile" in state) == (rank == 0)
    assert (state["lower.optimizer"].tree, state["random"].tree) == ("equal", source)
    (step,) = unpack(state["lower.recorded"], part="")["steps"]
    # Zero: the terms are those of the micro-batches, which all processes now replay.
    assert step == {"micro_batches": [{"batch": batch} for batch in "abcd"], "clip": 0.5, "terms": 0.0}


def test_all_take_the_state_of_one() -> None:
    alone = {"random": pack("only", part=""), "lower.recorded": recorded("a")}
    for rank in (0, 1):
        state = parts_for(alone, numbered(rank, 2), saved=1)
        assert state["random"].tree == "only"
        (step,), (before,) = (unpack(of["lower.recorded"], part="")["steps"] for of in (state, alone))
        assert step == before | {"terms": 0.0}


def test_a_missing_part_is_named_and_the_middle_of_a_step_cannot_be_taken_elsewhere() -> None:
    state = of_two() | {"lower.recorded": recorded("a", unfinished={"micro_batches": []})}
    with pytest.raises(CheckpointError, match="taken inside a step of several processes"):
        parts_for(state, numbered(0, 1), saved=2)
    del state["lower.optimizer"]
    with pytest.raises(CheckpointError, match=r"process 0: lower.optimizer is missing"):
        parts_for(state, numbered(0, 1), saved=2)
