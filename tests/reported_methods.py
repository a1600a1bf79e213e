"""Methods as a report measures them, for the tests of its rules."""

from typing import Any

from bilora.report.measured import Difference, Measured

LORA = Measured("lora", "accuracy", "validation", 0.8, seconds=40.0, peak_memory_mb=1000.0, is_baseline=True)


def against(mean: float, low: float, high: float, *, p_value: float | None = 0.01, **more: Any) -> Measured:
    """Return a method that is ``mean`` above the baseline, with an interval and a p-value."""
    difference = Difference(mean, (low, high), p_value, seeds=6)
    return Measured("bilora", "accuracy", "validation", 0.8 + mean, seconds=80.0, difference=difference, **more)
