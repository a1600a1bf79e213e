"""Trackers that get the numbers of a run beside ``metrics.jsonl``; one that fails never stops the run."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from accelerate.state import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from bilora.artifacts.scored_on import VALIDATION
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import StepRecord, ValidationRecord
from bilora.errors import SettingsError
from bilora.settings.lookup import find

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine

Settings = Mapping[str, Any]

PROJECT = "bilora"


class Logger(Protocol):
    """One open tracker; a user's own is a class that is called with the run's folder and settings."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Finish the tracker's run."""


class Accelerated:
    """A tracker of accelerate, opened for the folder of a run."""

    def __init__(self, name: str, folder: Path, settings: Settings) -> None:
        importlib.import_module(name)  # each is called like its package; TensorBoard's would try another one
        PartialState()  # accelerate's loggers raise before it is there
        self.tracker: Any = LOGGER_TYPE_TO_CLASS[name](**ARGUMENTS[name](folder, settings))
        self.tracker.start()
        if name not in SETTINGS_AT_START:
            # MLflow takes parameters of 500 characters at most, in servers of some age.
            self.tracker.store_init_configuration({key: str(value)[:500] for key, value in settings.items()})

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.tracker.log(dict(values), step=step)

    def close(self) -> None:
        self.tracker.finish()


# The arguments of each tracker's class in accelerate: each names the run, or its folder, in its own way.
ARGUMENTS: dict[str, Callable[[Path, Settings], dict[str, Any]]] = {
    "aim": lambda folder, settings: {"run_name": folder.name, "logging_dir": str(folder)},
    "clearml": lambda folder, settings: {"run_name": PROJECT, "task_name": folder.name},
    "comet_ml": lambda folder, settings: {"run_name": PROJECT},
    "dvclive": lambda folder, settings: {"dir": str(folder / "dvclive")},
    "mlflow": lambda folder, settings: {"experiment_name": PROJECT, "run_name": folder.name},
    "swanlab": lambda folder, settings: {"run_name": PROJECT, "experiment_name": folder.name},
    "tensorboard": lambda folder, settings: {"run_name": "tensorboard", "logging_dir": str(folder)},
    "trackio": lambda folder, settings: {"run_name": PROJECT, "name": folder.name, "config": dict(settings)},
    # wandb would write into the working folder.
    "wandb": lambda folder, settings: {
        "run_name": PROJECT, "name": folder.name, "config": dict(settings), "dir": str(folder)
    },
}  # fmt: skip

# TensorBoard would write the settings into more files, as a run of its own.
SETTINGS_AT_START = {"tensorboard", "trackio", "wandb"}

# Every tracker by name; a user's own is ``package.module:NAME``. Each is called with the run's folder and settings.
LOGGERS: dict[str, Callable[[Path, Settings], Logger]] = {name: partial(Accelerated, name) for name in ARGUMENTS}


def check_loggers(names: Sequence[str]) -> None:
    """Refuse a name that is no tracker's, or that stands twice."""
    for name in names:
        find(LOGGERS, name, kind="report_to")
    if len(set(names)) < len(names):
        raise SettingsError(f"report_to is {list(names)}; each may stand once")


class ReportTo(Callback):
    """Hand losses, norms, learning rates and metrics to one tracker; after its first failure it gets no more."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], *, scored_on: str = VALIDATION) -> None:
        self.name = name
        # Numbers of D2 are no evaluation, and do not stand under its name.
        self._prefix = "eval" if scored_on == VALIDATION else scored_on
        # Looked up now, so that a misspelt name is refused before the run; opened when it starts.
        self._make = partial(find(LOGGERS, name, kind="report_to"), folder, settings)
        self._logger: Logger | None = None

    def on_run_start(self, engine: BilevelEngine) -> None:
        self._logger = self._guarded(self._make)

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
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
        # A step that was skipped has a number that is not finite, of which a tracker would make a gap or an error.
        self._log({name: value for name, value in values.items() if math.isfinite(value)}, record.step)

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        values = {f"{self._prefix}/{name}": float(value) for name, value in record.metrics.items() if value is not None}
        self._log(values, record.step)

    def on_close(self, engine: BilevelEngine) -> None:
        if self._logger is not None:
            self._guarded(self._logger.close)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        if self._logger is not None:
            self._guarded(partial(self._logger.log, values, step))

    def _guarded(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # a tracker may raise anything, and a run is worth more than its curves
            # Not closed either: that would fail the same way, and warn a second time.
            self._logger = None
            warnings.warn(
                f"report_to {self.name!r} failed and gets nothing more ({type(error).__name__}: {error}); every number "
                "is in metrics.jsonl",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
