"""Trackers: what they are told, and that none of them stops a run."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bilora.engines.callbacks.trackers import ReportTo, check_loggers
from bilora.errors import SettingsError
from bilora.files.formats import read_lines


def test_tensorboard_files_hold_the_numbers_of_the_run(command_run: Any) -> None:
    events = EventAccumulator(str(command_run.folder / "tensorboard"))
    events.Reload()
    lines = read_lines(command_run.folder / "metrics.jsonl")
    losses = {line["step"]: line["lower_loss"] for line in lines if "lower_loss" in line}
    logged = {event.step: event.value for event in events.Scalars("train/lower_loss")}
    assert logged == pytest.approx(losses, rel=1e-6)
    validated = [event.value for event in events.Scalars("d2/loss")]
    assert validated == pytest.approx([line["d2"]["loss"] for line in lines if "d2" in line], rel=1e-6)
    assert len(events.Scalars("train/upper_loss")) == sum("upper_loss" in line for line in lines)


class Calls(types.ModuleType):
    """A tracker's package that notes what is called."""

    def __init__(self) -> None:
        super().__init__("tracker")
        self.calls: list[tuple[str, Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *words, **named: self.calls.append((name, words, named))


@pytest.mark.parametrize(
    ("name", "opened", "logged", "closed"),
    [
        ("wandb", "init", "log", "finish"),
        ("trackio", "init", "log", "finish"),
        ("mlflow", "start_run", "log_metrics", "end_run"),
    ],
)
def test_trackers_are_opened_told_and_closed(
    name: str,
    opened: str,
    logged: str,
    closed: str,
    fit_pair: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = Calls()
    monkeypatch.setitem(sys.modules, name, tracker)
    fitted = fit_pair(callbacks=(ReportTo(name, tmp_path / "run", {"steps": 8}),), validate=lambda: {"loss": 0.5})
    names = [each for each, _, _ in tracker.calls]
    assert names.index(opened) < names.index(logged)
    assert names[-1] == closed
    steps = [(words[0], named["step"]) for each, words, named in tracker.calls if each == logged]
    assert [step for values, step in steps if "train/lower_loss" in values] == list(range(1, 9))
    assert steps[0][0]["train/lower_loss"] == fitted.records.steps[0].loss
    assert ({"eval/loss": 0.5}, 8) in steps


class Failing:
    """A tracker that takes three steps and no more."""

    taken = 0
    closed = 0

    def __init__(self, folder: Path, settings: Any) -> None:
        pass

    def log(self, values: Any, step: int) -> None:
        Failing.taken += 1
        if Failing.taken > 3:
            raise OSError("the disk is full")

    def close(self) -> None:
        Failing.closed += 1


def test_a_failing_tracker_warns_once_and_the_run_goes_on(
    fit_pair: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("failing_tracker")
    module.Failing = Failing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "failing_tracker", module)
    with pytest.warns(RuntimeWarning, match=r"failed and gets nothing more \(OSError: the disk is full\)") as told:
        fitted = fit_pair(callbacks=(ReportTo("failing_tracker:Failing", tmp_path, {}),))
    assert len(told) == 1
    assert fitted.result.steps == 8
    assert Failing.taken == 4
    assert Failing.closed == 0


def test_a_tracker_that_is_not_installed_warns_once(
    fit_pair: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(RuntimeWarning, match="report_to 'wandb' failed") as told:
        assert fit_pair(callbacks=(ReportTo("wandb", tmp_path, {}),)).result.steps == 8
    assert len(told) == 1


def test_a_tracker_stands_once() -> None:
    with pytest.raises(SettingsError, match="each may stand once"):
        check_loggers(["wandb", "wandb"])
