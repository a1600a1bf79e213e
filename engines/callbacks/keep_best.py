"""End a stage with the parameters of its best validation."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import ValidationRecord
from bilora.files.state import check_keys
from bilora.metrics.monitor import Monitor
from bilora.tensors import put

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine


class KeepBest(Callback):
    """Copy the trainable parameters at every better validation, and put the best ones back at the end.

    Where no validation was defined, the last parameters stay.

    Args:
        monitor: The metric to watch.
    """

    must_work = True

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.best: float | None = None
        self.best_step: int | None = None
        self._parameters: list[list[Tensor]] = []
        self._extra: list[dict[str, Any]] = []

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        value = self.monitor.read(record)
        if not self.monitor.is_better(value, than=self.best):
            return
        self.best, self.best_step = value, record.step
        # A copy on the CPU: the optimizer writes into the tensors in place, and the device may be full.
        self._parameters = [
            [tensor.detach().to("cpu", copy=True) for tensor in level.trainable_parameters()] for level in engine.levels
        ]
        # What changes beside the parameters, such as the ranks that AdaLoRA keeps: a copy, since it changes in place.
        self._extra = [copy.deepcopy(level.extra_state()) for level in engine.levels]

    def on_stage_end(self, engine: BilevelEngine) -> None:
        # No validation was defined: the last parameters stay.
        if self.best_step is None:
            return
        for level, values, extra in zip(engine.levels, self._parameters, self._extra, strict=True):
            put(level.trainable_parameters(), values)
            level.load_extra_state(extra)

    def state(self) -> dict[str, Any]:
        # The parameters too: the best step may be older than every checkpoint that is still there.
        return {"best": self.best, "best_step": self.best_step, "parameters": self._parameters, "extra": self._extra}

    def load_state(self, state: Any) -> None:
        state = check_keys(state, ("best", "best_step", "parameters", "extra"), part="keep best")
        self.best, self.best_step = state["best"], state["best_step"]
        self._parameters, self._extra = state["parameters"], state["extra"]
