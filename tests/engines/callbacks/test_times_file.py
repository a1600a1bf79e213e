"""The seconds of each step, and of the validations after them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from bilora.compare.statistics import read_validations
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.files import MetricsFile, TimesFile, read_times


def test_times_rise_and_belong_to_steps(make_engine: Callable[..., BilevelEngine], tmp_path: Path) -> None:
    scores = iter([0.5, 0.75, 0.5])
    engine = make_engine(
        steps=5,
        callbacks=[MetricsFile(tmp_path / "metrics.jsonl"), TimesFile(tmp_path / "times.jsonl")],
        validate=lambda: {"f1": next(scores)},
        validate_every=2,
    )
    engine.run()
    times = read_times(tmp_path / "times.jsonl")
    assert list(times) == [1, 2, 3, 4, 5]
    assert list(times.values()) == sorted(times.values())
    assert read_validations(tmp_path, "f1") == [(times[2], 0.5), (times[4], 0.75), (times[5], 0.5)]


def test_a_run_that_goes_on_adds_to_the_time_of_its_checkpoint(
    make_engine: Callable[..., BilevelEngine], tmp_path: Path
) -> None:
    path = tmp_path / "times.jsonl"
    lines = [json.dumps({"step": step, "seconds": 100.0 * step}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "sec', encoding="utf-8")
    writer = TimesFile(path)
    writer.load_state({"seconds": 150.0})
    make_engine(steps=2, callbacks=[writer]).run()
    times = read_times(path)
    assert times[3] == 300.0
    assert 150.0 < times[1] < times[2] <= writer.state()["seconds"] < 160.0
