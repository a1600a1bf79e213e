"""End a stage whose metric no longer gets better."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.keep_best import KeepBest
from bilora.engines.callbacks.records import StepRecord, ValidationRecord
from bilora.errors import SettingsError
from bilora.files.state import check_keys
from bilora.metrics.monitor import Monitor
from bilora.problems.levels.level import Level
from bilora.problems.replay.random_state import RandomState
from bilora.problems.stage import Watch

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
        value = self.monitor.read(record)
        if self.monitor.is_better(value, than=self.best):
            self.best, self.without_gain = value, 0
            return
        self.without_gain += 1
        if self.without_gain >= self.patience:
            # The stage only: a retraining that follows is part of the method, not more of the same.
            engine.stop_stage(f"{self.monitor.metric} was not better than {self.best} for {self.patience} validations")

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "without_gain": self.without_gain}

    def load_state(self, state: Any) -> None:
        state = check_keys(state, ("best", "without_gain"), part="early stopping")
        self.best, self.without_gain = state["best"], state["without_gain"]


class HeldOut(Callback):
    """Look at the loss on batches of D2, end the stage when it no longer falls, and keep the best parameters."""

    # What it decides is the method itself (early stopping on D2), so a run without it is another one.
    must_work = True

    def __init__(self, batches: Iterable[Any], watch: Watch) -> None:
        self.batches = batches
        self.watch = watch
        self.losses: list[tuple[int, float]] = []  # step and loss of every look
        smaller = Monitor("loss", greater_is_better=False)
        self._keep_best = KeepBest(smaller)
        self._watchers = (self._keep_best, EarlyStopping(smaller, patience=watch.patience))

    @property
    def best_step(self) -> int | None:
        """The step whose parameters are kept, or None before the first look."""
        return self._keep_best.best_step

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        # The last step is always looked at, since it may be the best one.
        if record.step % self.watch.every != 0 and record.step != engine.steps:
            return
        engine.eval()
        # The draws of a look, such as a loader's seed, must not change the masks of the steps after it.
        with RandomState.take(engine.device).replayed():
            mean = mean_loss(engine.lower_level, self.batches)
        # All processes read all of D2, and round as they like; one number decides for all of them.
        loss = engine.processes.first_only(lambda: mean)
        engine.train()
        self.losses.append((record.step, loss))
        for watcher in self._watchers:
            watcher.on_validation(engine, ValidationRecord(record.step, {"loss": loss}))

    def on_stage_end(self, engine: BilevelEngine) -> None:
        self._keep_best.on_stage_end(engine)

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses, "watchers": [watcher.state() for watcher in self._watchers]}

    def load_state(self, state: Any) -> None:
        state = check_keys(state, ("losses", "watchers"), part="held out")
        self.losses = state["losses"]
        for watcher, kept in zip(self._watchers, state["watchers"], strict=True):
            watcher.load_state(kept)


@torch.no_grad()
def mean_loss(level: Level, batches: Iterable[Any]) -> float:
    """Return the mean over rows of a level's loss on batches with ``labels``, its penalty left out."""
    total, rows = 0.0, 0
    for batch in batches:
        loss, parts = level.loss_and_parts(batch)
        # Weighted by rows: the last batch is smaller.
        # Without the penalty, which says nothing about how the model does on the rows.
        total += float(parts.get("task_loss", loss)) * len(batch["labels"])
        rows += len(batch["labels"])
    return total / rows
