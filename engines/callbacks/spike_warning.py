"""A word when the loss jumps, though it is still a number."""

from __future__ import annotations

import statistics
import warnings
from collections import deque
from typing import TYPE_CHECKING

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.step_record import StepRecord

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine


class SpikeWarning(Callback):
    """Warn once when a lower loss is many times the median of those before it.

    The run goes on: gradients are clipped, and the best parameters so far are kept where that is asked for.

    Args:
        times: How many times the median.
        window: Steps that the median is taken over; nothing is said before a fifth of them is made.
    """

    def __init__(self, *, times: float = 10.0, window: int = 50) -> None:
        self.times = times
        self._losses: deque[float] = deque(maxlen=window)
        self._said = False

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        """Compare, then remember; a step that was skipped has been told."""
        if record.skipped:
            return
        maxlen = self._losses.maxlen or 0
        median = statistics.median(self._losses) if len(self._losses) >= maxlen / 5 else None
        self._losses.append(record.loss)
        if self._said or median is None or record.loss <= self.times * max(median, 1e-3):
            return
        self._said = True
        warnings.warn(
            f"step {record.step}: the lower loss is {record.loss:.3g}, the median of the steps before it {median:.3g}; "
            "the run goes on. If it does not come down again, lower the learning rate or clip the gradient",
            RuntimeWarning,
            stacklevel=2,
        )
