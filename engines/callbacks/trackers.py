"""Trackers that get the numbers of a run beside ``metrics.jsonl``; one that fails never stops the run."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bilora.artifacts.scored_on import VALIDATION
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import StepRecord, ValidationRecord
from bilora.errors import SettingsError
from bilora.settings.lookup import find

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine

PROJECT = "bilora"


class Logger(Protocol):
    """One open tracker."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Finish the tracker's run."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        writers = importlib.import_module("torch.utils.tensorboard")
        self.writer = writers.SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one scalar a number."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()


class _Project:
    """A tracker with ``init``, ``log`` and ``finish``: wandb, and trackio, which has taken its names over."""

    package: str

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.tracker = importlib.import_module(self.package)
        self.tracker.init(project=PROJECT, name=folder.name, config=dict(settings), **self.options(folder))

    def options(self, folder: Path) -> dict[str, Any]:
        """Return what only this tracker's ``init`` takes."""
        return {}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the numbers."""
        self.tracker.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run."""
        self.tracker.finish()


class Wandb(_Project):
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it on this machine."""

    package = "wandb"

    def options(self, folder: Path) -> dict[str, Any]:
        """Return where its files go, which is the working folder if nobody says."""
        return {"dir": str(folder)}


class Trackio(_Project):
    """A run in trackio's local database."""

    package = "trackio"


class Mlflow:
    """A run of MLflow, wherever its own environment variables say."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.tracker = importlib.import_module("mlflow")
        self.tracker.set_experiment(PROJECT)
        self.tracker.start_run(run_name=folder.name)
        # MLflow takes parameters of 500 characters at most.
        self.tracker.log_params({name: str(value)[:500] for name, value in settings.items()})

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the numbers."""
        self.tracker.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self.tracker.end_run()


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}
"""Every tracker by name; a user's own is ``package.module:NAME``. Each is called with the run's folder and settings."""


def check_loggers(names: Sequence[str]) -> None:
    """Raise where a name is no tracker's, or stands twice.

    Raises:
        SettingsError: With the name.

    Example:
        >>> check_loggers(["tensorbord"])
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: report_to 'tensorbord' is unknown; known: mlflow, tensorboard, trackio, wandb; or \
give 'package.module:NAME'. Did you mean 'tensorboard'?
    """
    for name in names:
        find(LOGGERS, name, kind="report_to")
    if len(set(names)) < len(names):
        raise SettingsError(f"report_to is {list(names)}; each may stand once")


class ReportTo(Callback):
    """Hand losses, norms, learning rates and metrics to one tracker; after its first failure it gets no more.

    Args:
        name: A key of ``LOGGERS``, or ``package.module:NAME``.
        folder: Folder of the run.
        settings: Settings of the run, for the tracker to show.
        scored_on: What the rows of a validation are; ``d2`` stands before the names of their numbers as it is.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], *, scored_on: str = VALIDATION) -> None:
        self.name = name
        self._prefix = "eval" if scored_on == VALIDATION else scored_on
        self._make = find(LOGGERS, name, kind="report_to")
        self._folder, self._settings = folder, settings
        self._logger: Logger | None = None

    def on_run_start(self, engine: BilevelEngine) -> None:
        """Open the tracker."""
        self._guarded(self._open)

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        """Log a step; of one that was skipped, what is a number."""
        values = {
            "train/lower_loss": record.loss,
            "train/lower_gradient_norm": record.gradient_norm,
            "train/lower_learning_rate": max(record.learning_rates),
        }
        if record.upper is not None:
            values |= {
                "train/upper_loss": record.upper.loss,
                "train/hypergradient_norm": record.upper.hypergradient_norm,
                "train/upper_learning_rate": max(record.upper.learning_rates),
            }
        self._log({name: each for name, each in values.items() if math.isfinite(each)}, record.step)

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        """Log a validation; metrics that are undefined are left out."""
        values = {f"{self._prefix}/{name}": float(value) for name, value in record.metrics.items() if value is not None}
        self._log(values, record.step)

    def on_close(self, engine: BilevelEngine) -> None:
        """Finish the tracker's run."""
        logger = self._logger
        if logger is not None:
            self._guarded(logger.close)

    def _open(self) -> None:
        self._logger = self._make(self._folder, self._settings)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        logger = self._logger
        if logger is not None:
            self._guarded(lambda: logger.log(values, step))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a tracker may raise anything, and a run is worth more than its curves
            self._logger = None
            warnings.warn(
                f"report_to {self.name!r} failed and gets nothing more ({type(error).__name__}: {error}); every number "
                "is in metrics.jsonl",
                RuntimeWarning,
                stacklevel=2,
            )
