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

Fit = Callable[..., Any]


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
    """A tracker's package, and every object in it: notes each call, and answers with itself."""

    MAX_PARAM_VAL_LENGTH = MAX_PARAMS_TAGS_PER_BATCH = 1000
    __version__ = "9.9"

    def __init__(self) -> None:
        super().__init__("tracker")
        self.calls: list[tuple[str, Any, Any]] = []
        self.utils = self.validation = self.config = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def note(*words: Any, **named: Any) -> Calls:
            self.calls.append((name, words, named))
            return self

        return note

    def __len__(self) -> int:
        return 0

    def __setitem__(self, key: str, value: Any) -> None:
        self.calls.append((key, (value,), {}))


@pytest.fixture
def calls(name: str, monkeypatch: pytest.MonkeyPatch) -> Calls:
    tracker = Calls()
    monkeypatch.setitem(sys.modules, name, tracker)
    return tracker


@pytest.mark.parametrize(
    ("name", "opened", "settings", "logged", "closed"),
    [
        ("wandb", "init", "init", "log", "finish"),
        ("trackio", "init", "init", "log", "finish"),
        ("mlflow", "start_run", "log_params", "log_metrics", "end_run"),
        ("swanlab", "init", "update", "log", "finish"),
    ],
)
def test_trackers_are_opened_told_and_closed(
    name: str, opened: str, settings: str, logged: str, closed: str, calls: Calls, fit_pair: Fit, tmp_path: Path
) -> None:
    fitted = fit_pair(callbacks=(ReportTo(name, tmp_path / "run", {"steps": 8}),), validate=lambda: {"loss": 0.5})
    names = [name for name, _, _ in calls.calls]
    assert names.index(opened) <= names.index(settings) < names.index(logged)
    assert names[-1] == closed
    assert "'run'" in str(calls.calls[names.index(opened)]), "the run has the name of its folder"
    assert "steps" in str(calls.calls[names.index(settings)])
    steps = [(words[0], named["step"]) for call, words, named in calls.calls if call == logged]
    assert [step for values, step in steps if "train/lower_loss" in values] == list(range(1, 9))
    assert steps[0][0]["train/lower_loss"] == fitted.records.steps[0].loss
    assert ({"eval/loss": 0.5}, 8) in steps


@pytest.mark.parametrize(
    ("name", "logged", "closed"),
    [("aim", "track", "close"), ("comet_ml", "log_metric", "end"), ("dvclive", "log_metric", "end")],
)
def test_trackers_that_take_one_number_at_a_time(
    name: str, logged: str, closed: str, calls: Calls, fit_pair: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attribute in ("Run", "start", "Live", "Metric"):
        monkeypatch.setattr(calls, attribute, lambda *_, **__: calls, raising=False)
    monkeypatch.setattr(calls.Metric, "could_log", lambda value: isinstance(value, float), raising=False)
    monkeypatch.setitem(sys.modules, "dvclive.plots", calls)
    fitted = fit_pair(callbacks=(ReportTo(name, tmp_path / "run", {"steps": 8}),))
    assert calls.calls[-1][0] == closed
    loss = fitted.records.steps[0].loss
    assert any(call == logged and loss in (*words, *named.values()) for call, words, named in calls.calls)


@pytest.mark.parametrize(
    ("tracker", "reason", "taken"),
    [("failing_tracker:Failing", r"\(OSError: the disk is full\)", 4), ("wandb", r"\(ModuleNotFoundError: .*\)", 0)],
    ids=["fails", "is not installed"],
)
def test_a_tracker_that_fails_warns_once_and_the_run_goes_on(
    tracker: str, reason: str, taken: int, fit_pair: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Failing:
        def __init__(self, folder: Path, settings: Any) -> None:
            pass

        def log(self, values: Any, step: int) -> None:
            calls.append("log")
            if step > 3:
                raise OSError("the disk is full")

        def close(self) -> None:
            calls.append("close")

    monkeypatch.setitem(sys.modules, "failing_tracker", types.SimpleNamespace(Failing=Failing))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(RuntimeWarning, match=f"report_to '{tracker}' failed and gets nothing more {reason}") as warned:
        fitted = fit_pair(callbacks=(ReportTo(tracker, tmp_path, {}),))
    assert (len(warned), fitted.result.steps) == (1, 8)
    assert calls == ["log"] * taken


def test_a_tracker_that_nobody_knows_and_one_that_stands_twice() -> None:
    with pytest.raises(SettingsError, match="'tensorbord' is unknown; known: aim, .* Did you mean 'tensorboard'"):
        check_loggers(["tensorbord"])
    with pytest.raises(SettingsError, match="each may stand once"):
        check_loggers(["wandb", "wandb"])
