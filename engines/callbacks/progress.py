"""A progress bar with the losses of both levels."""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import StepRecord, ValidationRecord

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine

# Seconds between two lines of progress, where nobody says otherwise.
LINE_EVERY = 30


class Progress(Callback):
    """Show steps, time left, both losses and the last validation; where the output is no terminal, a line of them.

    Args:
        title: What stands before the bar.
        log_every: Steps between two lines; None writes one every 30 seconds.
    """

    def __init__(self, title: str = "", *, log_every: int | None = None) -> None:
        self.title = title
        self.log_every = log_every
        self._bar: Any = None
        self._shown: dict[str, str] = {}
        self._told = self._began = 0.0
        self._first = 0

    def on_run_start(self, engine: BilevelEngine) -> None:
        # disable=None: tqdm looks whether it writes to a terminal.
        # One bar for all stages; where one ends early, the bar does not come to its end.
        total = engine.steps + engine.place.steps_after
        self._began = self._told = time.monotonic()
        self._first = engine.step
        self._bar = tqdm(total=total, initial=engine.step, desc=self.title, unit="step", disable=None, leave=False)

    def on_stage_start(self, engine: BilevelEngine) -> None:
        # They are of the stage before, which may have had a level that this one has not.
        self._shown.clear()
        if engine.place.title:
            self._bar.set_description(": ".join(filter(None, (self.title, engine.place.title))))

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        self._shown["lower"] = f"{record.loss:.3f}"
        if record.upper is not None:
            self._shown["upper"] = f"{record.upper.loss:.3f}"
        if self._bar.disable:
            self._log(engine)
            return
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def _log(self, engine: BilevelEngine) -> None:
        now = time.monotonic()
        due = now - self._told >= LINE_EVERY if self.log_every is None else engine.step % self.log_every == 0
        if not due:
            return
        self._told, left = now, engine.place.steps_after
        seconds = (now - self._began) / max(1, engine.step - self._first) * (engine.steps - engine.step + left)
        losses = ", ".join(f"{name} {value}" for name, value in self._shown.items())
        what = ": ".join(filter(None, (self.title, engine.place.title)))
        line = f"{what}: step {engine.step} of {engine.steps}, {losses}, {tqdm.format_interval(seconds)} left"
        print(line, file=sys.stderr, flush=True)

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        for name, value in record.metrics.items():
            self._shown[name] = "undefined" if value is None else f"{value:.3f}"

    def on_close(self, engine: BilevelEngine) -> None:
        # A run that fails before its first step has no bar.
        if self._bar is not None:
            self._bar.close()


class SpikeWarning(Callback):
    """Warn once when a lower loss is ``times`` the median of up to ``window`` steps before it; the run goes on."""

    def __init__(self, *, times: float = 10.0, window: int = 50) -> None:
        self.times = times
        self._losses: deque[float] = deque(maxlen=window)
        # A median of a few first losses, which fall fast, says little.
        self._enough = window / 5
        self._warned = False

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        # It has a warning of its own, and its loss, which may be nan, is no measure for those after it.
        if record.skipped:
            return
        median = statistics.median(self._losses) if len(self._losses) >= self._enough else math.inf
        self._losses.append(record.loss)
        # Near zero ten times the median is no spike.
        if self._warned or record.loss <= self.times * max(median, 1e-3):
            return
        self._warned = True
        warnings.warn(
            f"step {record.step}: the lower loss is {record.loss:.3g}, the median of the steps before it {median:.3g}; "
            "the run goes on. If it does not come down again, lower the learning rate or clip the gradient",
            RuntimeWarning,
            stacklevel=2,
        )
