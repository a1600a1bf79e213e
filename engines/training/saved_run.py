"""A run that is saved as it goes, goes on where an earlier one stopped, and halves its batches where it must."""

from __future__ import annotations

import functools
import signal
import warnings
from collections.abc import Callable, Iterator
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
from bilora.engines.checkpoints.saving import Checkpoints, Point, check_about
from bilora.engines.checkpoints.smaller_batches import continued_from, halved, with_batches_of
from bilora.engines.checkpoints.stop_signals import StopSignals, agreed
from bilora.engines.settings import FitSettings
from bilora.engines.training.result import FitResult
from bilora.engines.training.stage_state import Resumed, staged_state
from bilora.engines.training.staged_run import StagedRun
from bilora.errors import SettingsError
from bilora.files.lock import locked
from bilora.problems.levels.out_of_memory import OutOfMemory
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
            point = None if checkpoint is None else self._point(checkpoint)
            if self.folder is None:
                return self._until_it_fits(signals, point)
            with signals.watched():
                result = self._until_it_fits(signals, point)
        received = agreed(signals.received, self.processes)
        if received is not None:  # after the last step: this run is whole, and nothing shall follow it
            signal.raise_signal(received)
        return result

    def _point(self, checkpoint: Checkpoint) -> Point:
        """Return the place of a checkpoint, with this process's own part of it where there are several."""
        saved, processes = checkpoint.manifest.get("processes", 1), self.processes
        if saved == processes.count == 1:
            return Point.of(checkpoint)
        # Read by the first: the others may be on machines that do not see its folder.
        parts = processes.first_only(lambda: read_parts(checkpoint.folder))
        own = (
            own_parts(parts, processes) if saved == processes.count else parts_elsewhere(parts, processes, saved=saved)
        )
        return Point(checkpoint.step, checkpoint.manifest, own, checkpoint)

    def _until_it_fits(self, signals: StopSignals, point: Point | None) -> FitResult:
        settings = self.settings if point is None else continued_from(self.settings, point.about["run"])
        while True:
            checkpoints = Checkpoints(self.folder, settings, signals=signals, processes=self.processes)
            run = self.make(settings, checkpoints)
            self._tie(checkpoints, run)
            try:
                return run.run(resumed=None if point is None else self._fitted(point, run, checkpoints))
            except OutOfMemory as error:
                smaller = halved(settings, error.level) if settings.on_out_of_memory == "halve" else None
                if smaller is None or run.has_cut:
                    raise
                settings, point = smaller, checkpoints.point or point
                own = getattr(settings, error.level)
                warnings.warn(
                    f"{error.args[0].split('. ')[0]}; going on from step {0 if point is None else point.step} with "
                    f"{error.level}.batch_size {own.batch_size} and {error.level}.accumulation {own.accumulation}",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def _tie(self, checkpoints: Checkpoints, run: StagedRun) -> None:
        checkpoints.model, checkpoints.collect = run.model, lambda: staged_state(run)
        checkpoints.describe = functools.cache(lambda: describe(run))
        folder = self.folder
        if folder is not None and self.settings.save_every:
            needed = COPIES * sum(each.nbytes for each in trainable_parameters(run.model).values())
            self.processes.first_only(lambda: check_space(folder, needed))

    def _fitted(self, point: Point, run: StagedRun, checkpoints: Checkpoints) -> Resumed:
        """Return what the run goes on from, after comparing it with the run."""
        now = checkpoints.describe()
        saved, processes = point.about.get("processes", 1), self.processes.count
        if saved == processes:
            before, counts = with_batches_of(point.about["run"], run.settings)
        else:
            before, counts = rescaled_elsewhere(point.about["run"], run.settings, before=saved, now=processes)
        changed = check_changes(before, now["run"], allow=self.allow_config_change)
        check_about(point.about, now)
        if changed and self.processes.is_first:
            said = "; ".join(map(str, changed))
            warnings.warn(f"the run goes on with other settings: {said}", RuntimeWarning, stacklevel=4)
        if saved != processes and self.processes.is_first:
            told = notice(point.about["run"], run.settings, before=saved, now=processes)
            warnings.warn(told, RuntimeWarning, stacklevel=4)
        checkpoints.point, checkpoints.saved = point, point.folder
        return Resumed(point.states(), counts, keep_rates=bool(changed), elsewhere=saved != processes)


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
    """Return what a manifest says of a run: its settings, what it stands on, and the versions."""
    variant = {"method": run.variant.name, "method_settings": resolved(run.variant_settings)}
    trained = list(trainable_parameters(run.model).values())
    return {
        "run": {**resolved(run.settings), **variant},
        "base": base_fingerprint(run.model, trained=trained),
        "data": data_fingerprint(run.rows),
        "versions": versions(),
        "processes": run.processes.count,
    }
