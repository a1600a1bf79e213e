"""End a stage whose metric no longer gets better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.step_record import ValidationRecord
from bilora.errors import SettingsError
from bilora.files.stateful import check_keys
from bilora.metrics.monitor import Monitor

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine


class EarlyStopping(Callback):
    """End the stage after ``patience`` validations in a row without a better value; what follows it still runs.

    Args:
        monitor: The metric to watch.
        patience: Validations, at least one.
    """

    must_work = True

    def __init__(self, monitor: Monitor, *, patience: int) -> None:
        if patience < 1:
            raise SettingsError(f"patience is {patience}; it counts validations and must be at least 1")
        self.monitor = monitor
        self.patience = patience
        self.best: float | None = None
        self.without_gain = 0

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        """Count, and stop the engine when patience is spent."""
        value = self.monitor.read(record)
        if self.monitor.is_better(value, than=self.best):
            self.best, self.without_gain = value, 0
            return
        self.without_gain += 1
        if self.without_gain >= self.patience:
            engine.stop_stage(f"{self.monitor.metric} was not better than {self.best} for {self.patience} validations")

    def state(self) -> dict[str, Any]:
        """Return the best value and how long it has not been beaten."""
        return {"best": self.best, "without_gain": self.without_gain}

    def load_state(self, state: Any) -> None:
        """Count on from there."""
        found = check_keys(state, ("best", "without_gain"), part="early stopping")
        self.best, self.without_gain = found["best"], found["without_gain"]
