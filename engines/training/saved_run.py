"""A run that is saved as it goes, goes on where an earlier one stopped, and halves its batches where it must."""

from __future__ import annotations

import functools
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilora.adapter.level_parameters import trainable_parameters
from bilora.artifacts.fingerprint import base_fingerprint, data_fingerprint, versions
from bilora.engines.checkpoints.config_change import check_changes
from bilora.engines.checkpoints.files import (
    Checkpoint,
    check_space,
    checkpoints,
    newest_checkpoint,
    open_checkpoint,
    read_parts,
    remove_unfinished,
)
from bilora.engines.checkpoints.processes import notice, own_parts, parts_elsewhere, rescaled_elsewhere
from bilora.engines.checkpoints.run_state import Rescaled
from bilora.engines.checkpoints.saving import Checkpoints, check_about
from bilora.engines.checkpoints.stop_signals import StopSignals, agreed
from bilora.engines.settings import FitSettings
from bilora.engines.training.result import FitResult
from bilora.engines.training.smaller_batches import continued_from
from bilora.engines.training.stage_state import Resumed, staged_state
from bilora.engines.training.staged_run import StagedRun
from bilora.errors import SettingsError
from bilora.files.lock import locked
from bilora.files.state import unpack
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.settings.sections import resolved


@contextmanager
def open_run_folder(folder: Path | None, *, resume: bool | Path) -> Iterator[Checkpoint | None]:
    """Hold the folder for this process, without what a killed one left in it, and find the checkpoint to go on from.

    Args:
        folder: The folder; None for a fit that saves nothing.
        resume: Whether to go on from the newest checkpoint that verifies (from the start if there is none at all),
            or the checkpoint to go on from.

    Yields:
        The checkpoint, or None to begin at the start.

    Raises:
        SettingsError: Another process holds the folder, or it holds checkpoints and ``resume`` is False.
        CheckpointError: No checkpoint verifies.
    """
    if folder is None:
        if resume:
            raise SettingsError("resume needs to know where the checkpoints are; give 'folder'")
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        remove_unfinished(folder)
        if not resume and checkpoints(folder):
            raise SettingsError(f"{folder} holds checkpoints of an earlier run; resume it, or name another folder")
        yield open_checkpoint(resume) if isinstance(resume, Path) else _newest(folder) if resume else None


def _newest(folder: Path) -> Checkpoint | None:
    found, skipped = newest_checkpoint(folder)
    for reason in skipped:
        warnings.warn(f"checkpoint skipped: {reason}", RuntimeWarning, stacklevel=4)
    return found


COPIES = 8
"""How many times the trained parameters a checkpoint takes at most: adapter, state, moments, the best so far."""


@dataclass
class SavedRun:
    """Runs the stages of a fit inside a folder.

    Args:
        make: ``make(settings, checkpoints)`` builds the run, on the same model each time.
        settings: The settings.
        folder: Where checkpoints go; None saves nothing and leaves signals alone.
        resume: See :func:`bilora.engines.training.saved_run.opened`.
        allow_config_change: Whether what :data:`bilora.engines.checkpoints.config_change.ALLOWED` names may differ.
        processes: Those that train together; the first alone holds the folder, reads and writes.
    """

    make: Callable[[FitSettings, Checkpoints], StagedRun]
    settings: FitSettings
    folder: Path | None = None
    resume: bool | Path = False
    allow_config_change: bool = False
    processes: Processes = ONE_PROCESS

    def fit(self) -> FitResult:
        """Return what came of the run.

        Raises:
            SettingsError: Several processes were to halve their batches.
            CheckpointError: There is no checkpoint to go on from, or it does not fit.
            InterruptedRun: A signal came; what was done is saved.
            ResourceError: Memory or the disk is too small.
        """
        check_halving(self.settings, self.processes)
        signals = StopSignals()
        with self.processes.entered_by_first(open_run_folder(self.folder, resume=self.resume)) as checkpoint:
            if self.folder is None:
                return self._run(signals, checkpoint)
            with signals.watched():
                result = self._run(signals, checkpoint)
        received = agreed(signals.received, self.processes)
        if received is not None:  # after the last step: this run is whole, and nothing shall follow it
            signal.raise_signal(received)
        return result

    def _run(self, signals: StopSignals, checkpoint: Checkpoint | None) -> FitResult:
        settings = self.settings if checkpoint is None else continued_from(self.settings, checkpoint.manifest["run"])
        checkpoints = Checkpoints(self.folder, settings, signals=signals, processes=self.processes)
        run = self.make(settings, checkpoints)
        checkpoints.model, checkpoints.collect = run.model, lambda: staged_state(run)
        stands_on = functools.cache(lambda: fingerprints(run))
        checkpoints.describe = lambda: describe(run) | stands_on()
        self._check_space(run)
        if checkpoint is None:
            return run.run()
        checkpoints.saved = checkpoint.folder
        return run.run(resumed=self._resumed(checkpoint, run, checkpoints.describe()))

    def _check_space(self, run: StagedRun) -> None:
        folder = self.folder
        if folder is not None and self.settings.save_every:
            needed = COPIES * sum(weight.nbytes for weight in trainable_parameters(run.model).values())
            self.processes.first_only(lambda: check_space(folder, needed))

    def _resumed(self, checkpoint: Checkpoint, run: StagedRun, now: Mapping[str, Any]) -> Resumed:
        """Return the state of a checkpoint for this process, after comparing it with the run."""
        about, processes = checkpoint.manifest, self.processes.count
        before, saved, counts = about["run"], about.get("processes", 1), dict[str, Rescaled]()
        if saved != processes:
            before, counts = rescaled_elsewhere(before, run.settings, before=saved, now=processes)
        changed = check_changes(before, now["run"], allow=self.allow_config_change)
        check_about(about, now)
        if changed and self.processes.is_first:
            differing = "; ".join(map(str, changed))
            warnings.warn(f"the run goes on with other settings: {differing}", RuntimeWarning, stacklevel=5)
        if saved != processes and self.processes.is_first:
            warnings.warn(notice(about["run"], run.settings, before=saved, now=processes), RuntimeWarning, stacklevel=5)
        return Resumed(self._states(checkpoint, saved), counts, keep_rates=bool(changed), elsewhere=saved != processes)

    def _states(self, checkpoint: Checkpoint, saved: int) -> dict[str, Any]:
        """Return the state by part, as far as it is this process's."""
        if saved == self.processes.count == 1:
            return checkpoint.states()
        # Read by the first: the others may be on machines that do not see its folder.
        parts = self.processes.first_only(lambda: read_parts(checkpoint.folder))
        if saved == self.processes.count:
            parts = own_parts(parts, self.processes)
        else:
            parts = parts_elsewhere(parts, self.processes, saved=saved)
        return {name: unpack(packed, part=name) for name, packed in parts.items()}


def check_halving(settings: FitSettings, processes: Processes) -> None:
    """Refuse what several processes cannot do: one that is out of memory cannot halve the batches of all.

    Raises:
        SettingsError: ``on_out_of_memory`` is ``halve``.
    """
    if processes.count > 1 and settings.on_out_of_memory == "halve":
        raise SettingsError(
            f"on_out_of_memory is 'halve', which one process alone can do, and there are {processes.count}; set it to "
            "'stop', and halve batch_size and double accumulation by hand"
        )


def describe(run: StagedRun) -> dict[str, Any]:
    """Return what a manifest says of a run as it is now: its settings and processes."""
    variant = {"method": run.variant.name, "method_settings": resolved(run.variant_settings)}
    return {"run": {**resolved(run.settings), **variant}, "processes": run.processes.count}


def fingerprints(run: StagedRun) -> dict[str, Any]:
    """Return what a manifest says of what a run stands on: base model, rows and versions."""
    trained = list(trainable_parameters(run.model).values())
    return {
        "base": base_fingerprint(run.model, trained=trained),
        "data": data_fingerprint(run.rows),
        "versions": versions(),
    }
