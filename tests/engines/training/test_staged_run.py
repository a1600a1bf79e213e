"""Runs of several stages: their steps, their rows, what they start from, and how they end."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile
from bilora.metrics.monitor import Monitor

Fit = Callable[..., Any]


class Diary(Callback):
    """Writes down which hook was called in which stage, steps apart."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_run_start(self, engine: Any) -> None:
        self.events.append("run start")

    def on_stage_start(self, engine: Any) -> None:
        self.events.append(f"{engine.place.name} at {engine.step}")

    def on_stage_end(self, engine: Any) -> None:
        self.events.append(f"end of {engine.place.name} at {engine.step}")

    def on_run_end(self, engine: Any) -> None:
        self.events.append("run end")

    def on_close(self, engine: Any) -> None:
        self.events.append("close")


def test_retraining_counts_on_and_says_its_stage(fit_pair: Fit, tmp_path: Path) -> None:
    path, diary = tmp_path / "metrics.jsonl", Diary()
    fitted = fit_pair(ending="retrain", callbacks=[MetricsFile(path), diary], validate=lambda: {"score": 0.5})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [(line["step"], line["stage"]) for line in lines if "lower_loss" in line]
    assert steps == [(step, "bilevel" if step <= 8 else "retrain") for step in range(1, 17)]
    assert [line["step"] for line in lines if "validation" in line] == [8, 16]
    search, retraining = ["bilevel at 0", "end of bilevel at 8"], ["retrain at 8", "end of retrain at 16"]
    assert diary.events == ["run start", *search, *retraining, "run end", "close"]
    assert (fitted.result.steps, fitted.result.upper_steps) == (16, 4)
    stages = [(stage.name, stage.steps, stage.upper_steps) for stage in fitted.result.stages]
    assert stages == [("bilevel", 8, 4), ("retrain", 8, 0)]


def test_retraining_is_a_single_level_run_from_the_start_with_the_learned_upper_values(fit_pair: Fit) -> None:
    """Against a plain fit on all the rows whose upper vector was put there by hand; bit for bit."""
    searched, retrained = fit_pair(), fit_pair(ending={"name": "retrain", "steps": 6})
    assert torch.equal(searched.model.above, retrained.model.above)

    class PutUpper(Callback):
        def on_run_start(self, engine: Any) -> None:
            with torch.no_grad():
                engine.lower_level.module.above.copy_(searched.model.above)

    plain = fit_pair(single=True, steps=6, callbacks=[PutUpper()])
    assert torch.equal(plain.model.below, retrained.model.below)
    assert not torch.equal(searched.model.below, retrained.model.below)


def test_retraining_reads_all_the_rows(fit_pair: Fit) -> None:
    fitted = fit_pair(ending={"name": "retrain", "steps": 10})
    assert set(chain(*fitted.model.seen["lower"][8:])) == set(range(40))


def test_retraining_means_nothing_after_training_on_all_rows(fit_pair: Fit) -> None:
    (stage,) = fit_pair(single=True, ending="retrain").result.stages
    assert stage.name == "single"


def test_a_callback_that_stops_the_run_skips_later_stages(fit_pair: Fit) -> None:
    class Stop(Callback):
        def on_step(self, engine: Any, record: Any) -> None:
            if record.step == 3:
                engine.stop("enough")

    diary = Diary()
    result = fit_pair(ending="retrain", callbacks=[Stop(), diary]).result
    assert diary.events == ["run start", "bilevel at 0", "end of bilevel at 3", "run end", "close"]
    assert (result.steps, result.upper_steps, result.stop_reason, len(result.stages)) == (3, 1, "enough", 1)


def watched(*scores: float) -> dict[str, Any]:
    """Return options of a run whose validations, one every two steps, give these scores."""
    script, monitor = iter(scores), Monitor("score", greater_is_better=True)
    return {"ending": "retrain", "validate": lambda: {"score": next(script)}, "monitor": monitor, "validate_every": 2}


def test_early_stopping_ends_one_stage_only(fit_pair: Fit) -> None:
    """The search stops after two validations without gain; the retraining has a patience of its own."""
    result = fit_pair(**watched(0.9, 0.5, 0.4, 0.1, 0.2, 0.3, 0.4), early_stopping=2).result
    search, retrained = result.stages
    assert (search.steps, retrained.steps) == (6, 8)
    assert search.stop_reason is not None and "was not better than 0.9" in search.stop_reason
    assert (result.stop_reason, result.metrics) == (None, {"score": 0.4})


def test_each_stage_keeps_its_own_best(fit_pair: Fit) -> None:
    result = fit_pair(**watched(0.9, 0.8, 0.7, 0.6, 0.1, 0.3, 0.2, 0.2), keep_best=True).result
    assert [stage.best_step for stage in result.stages] == [2, 12]
    assert result.best_step == 12


def test_a_stage_that_cannot_be_built_closes_the_callbacks(fit_pair: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first stage is prepared, the second is not.
    prepare = Mock(side_effect=[None, OSError("no memory")])
    monkeypatch.setattr("bilora.engines.training.staged_run.prepare_model", prepare)
    diary = Diary()
    with pytest.raises(OSError, match="no memory"):
        fit_pair(ending="retrain", callbacks=[diary])
    assert diary.events == ["run start", "bilevel at 0", "end of bilevel at 8", "close"]
