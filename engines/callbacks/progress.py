"""A progress bar with the losses of both levels."""

from __future__ import annotations

import math
import statistics
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import StepRecord, ValidationRecord

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine


class Progress(Callback):
    """Show steps, time left, both losses and the last validation; quiet where the output is not a terminal.

    Args:
        title: What stands before the bar.
    """

    def __init__(self, title: str = "") -> None:
        self.title = title
        self._bar: Any = None
        self._shown: dict[str, str] = {}

    def on_run_start(self, engine: BilevelEngine) -> None:
        # disable=None: tqdm looks whether it writes to a terminal.
        # One bar for all stages; where one ends early, the bar does not come to its end.
        total = engine.steps + engine.place.steps_after
        self._bar = tqdm(total=total, initial=engine.step, desc=self.title, unit="step", disable=None, leave=False)

    def on_stage_start(self, engine: BilevelEngine) -> None:
        if engine.place.title:
            self._bar.set_description(": ".join(filter(None, (self.title, engine.place.title))))

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        if self._bar.disable:
            return
        self._shown["lower"] = f"{record.loss:.3f}"
        if record.upper is not None:
            self._shown["upper"] = f"{record.upper.loss:.3f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

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
