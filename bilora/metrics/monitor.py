"""One metric watched over validations: which value is better, and has it been defined at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilora.errors import SettingsError

if TYPE_CHECKING:
    from bilora.engines.callbacks.records import ValidationRecord


@dataclass(frozen=True)
class Monitor:
    """A metric by name, and its direction.

    An undefined value (None or NaN) is never better than anything.

    Args:
        metric: A name among the validation's metrics.
        greater_is_better: Direction of the metric.

    Example:
        >>> monitor = Monitor("loss", greater_is_better=False)
        >>> monitor.is_better(0.4, than=0.5), monitor.is_better(None, than=0.5), monitor.is_better(0.5, than=None)
        (True, False, True)
    """

    metric: str
    greater_is_better: bool

    def read(self, record: ValidationRecord) -> float | None:
        """Return the metric's value in a validation.

        Raises:
            SettingsError: The validation has no such metric.
        """
        if self.metric not in record.metrics:
            raise SettingsError(
                f"the monitored metric {self.metric!r} is not among the validation's: {', '.join(record.metrics)}"
            )
        return record.metrics[self.metric]

    def is_better(self, value: float | None, *, than: float | None) -> bool:
        """Return whether ``value`` is defined, and strictly better than ``than`` or ``than`` undefined."""
        if value is None or math.isnan(value):
            return False
        if than is None or math.isnan(than):
            return True
        return value > than if self.greater_is_better else value < than
