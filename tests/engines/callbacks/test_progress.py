"""The progress bar: what it shows, and that it is silent where nobody looks."""

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.progress import Progress
from bilora.engines.callbacks.records import StagePlace

Make = Callable[..., BilevelEngine]


def test_silent_where_the_output_is_not_a_terminal(make_engine: Make, capfd: pytest.CaptureFixture[str]) -> None:
    make_engine(callbacks=[Progress("a run")], validate=lambda: {"loss": 1.0}).run()
    assert capfd.readouterr() == ("", "")


def test_shows_steps_losses_and_metrics(make_engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal: Any = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    bars: list[str] = []

    class Watched(Progress):
        def on_run_end(self, engine: BilevelEngine) -> None:
            bars.append(str(self._bar))

        def on_validation(self, engine: BilevelEngine, record: Any) -> None:
            super().on_validation(engine, record)
            self._bar.set_postfix(self._shown)

    metrics = {"accuracy": 0.875, "f1": None}
    make_engine(steps=4, callbacks=[Watched("a run")], validate=lambda: metrics).run()
    (bar,) = bars
    assert bar.startswith("a run: 100%")
    assert "4/4" in bar
    for shown in ("lower=", "upper=", "accuracy=0.875", "f1=undefined"):
        assert shown in bar
    assert "a run" in terminal.getvalue()


def test_a_stage_with_a_title_says_it(make_engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal: Any = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    make_engine(callbacks=[Progress("a run")], place=StagePlace(title="training on all rows")).run()
    assert "a run: training on all rows: " in terminal.getvalue()


def test_a_stage_does_not_show_the_losses_of_another(make_engine: Make, capfd: pytest.CaptureFixture[str]) -> None:
    shown = Progress("a run", log_every=1)
    make_engine(steps=2, callbacks=[shown]).run()
    assert ", upper " in capfd.readouterr().err
    # The upper level makes no step at the first lower one.
    make_engine(steps=2, callbacks=[shown]).run()
    first = capfd.readouterr().err.splitlines()[0]
    assert "step 1 of 2, lower " in first
    assert ", upper " not in first


def test_a_run_that_fails_at_the_start_closes_without_a_bar() -> None:
    Progress().on_close(None)  # type: ignore[arg-type]
