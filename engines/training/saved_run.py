"""A run that is saved as it goes, and goes on where an earlier one stopped."""

import dataclasses
import functools
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from bilora.engines.checkpoints.processes import notice, parts_for, rescaled
from bilora.engines.checkpoints.run_state import Rescaled
from bilora.engines.checkpoints.saving import Checkpoints, check_about
from bilora.engines.checkpoints.stop_signals import StopSignals, agreed
from bilora.engines.training.plan import Plan
from bilora.engines.training.result import FitResult
from bilora.engines.training.smaller_batches import continued_from
from bilora.engines.training.stage_state import Resumed, staged_state
from bilora.engines.training.staged_run import StagedRun
from bilora.errors import SettingsError
from bilora.files.lock import locked
from bilora.files.state import unpack
from bilora.settings.sections import resolved


@contextmanager
def open_run_folder(folder: Path | None, *, resume: bool | Path) -> Iterator[Checkpoint | None]:
    """Hold the folder, cleared of what a killed process left, and yield the checkpoint to go on from, or None."""
    if folder is None:
        if resume:
            raise SettingsError("resume needs to know where the checkpoints are; give 'folder'")
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, again=True):
        remove_unfinished(folder)
        if not resume and checkpoints(folder):
            raise SettingsError(f"{folder} holds checkpoints of an earlier run; resume it, or name another folder")
        if isinstance(resume, Path):
            yield open_checkpoint(resume)
            return
        newest, skipped = newest_checkpoint(folder) if resume else (None, [])
        for reason in skipped:
            warnings.warn(f"checkpoint skipped: {reason}", RuntimeWarning, stacklevel=4)
        yield newest


# A checkpoint is at most so many times the trained parameters: adapter, state, moments, the best so far.
COPIES = 8


@dataclass
class SavedRun:
    """The stages of a fit inside a folder, which the first process alone holds, reads and writes."""

    # Builds the run, since a resume may change the plan.
    make: Callable[[Plan, Checkpoints], StagedRun]
    plan: Plan
    folder: Path | None = None
    resume: bool | Path = False
    allow_config_change: bool = False
    last: tuple[Checkpoints, StagedRun] | None = field(init=False, default=None)

    def fit(self) -> FitResult:
        """Return what came of the run, see :func:`~bilora.engines.training.fit.fit`."""
        signals, processes = StopSignals(), self.plan.processes
        with processes.entered_by_first(open_run_folder(self.folder, resume=self.resume)) as checkpoint:
            if self.folder is None:
                return self._run(signals, checkpoint)
            with signals.watched():
                result = self._run(signals, checkpoint)
            received = agreed(signals.received, processes)
            if received is not None:
                # After the last step: nothing shall follow this run, and its training shall not be lost.
                assert self.last is not None and self.last[1].engine is not None  # it has run
                # What is saved is in the middle of its stage, at the last step, and a resume ends it.
                self.last[1].done.pop()
                self.last[0].save(self.last[1].engine)
        if received is not None:
            signal.raise_signal(received)
        return result

    def _run(self, signals: StopSignals, checkpoint: Checkpoint | None) -> FitResult:
        plan, folder = self.plan, self.folder
        if checkpoint is not None:
            plan = dataclasses.replace(plan, settings=continued_from(plan.settings, checkpoint.manifest["run"]))
        checkpoints = Checkpoints(folder, plan.settings, signals=signals, processes=plan.processes)
        run = self.make(plan, checkpoints)
        self.last = checkpoints, run
        checkpoints.model, checkpoints.collect = run.model, lambda: staged_state(run)
        # Once, as hashing rows and weights takes long; the settings anew, as batches may have become smaller.
        stands_on = functools.cache(lambda: fingerprints(run))
        checkpoints.describe = lambda: describe(run) | stands_on()
        if folder is not None and plan.settings.save_every:
            needed = COPIES * sum(weight.nbytes for weight in trainable_parameters(run.model).values())
            plan.processes.first_only(lambda: check_space(folder, needed))
        if checkpoint is None:
            return run.run()
        checkpoints.saved = checkpoint.folder
        return run.run(resumed=self._resumed(checkpoint, run, checkpoints.describe()))

    def _resumed(self, checkpoint: Checkpoint, run: StagedRun, now: Mapping[str, Any]) -> Resumed:
        """Return the state of a checkpoint for this process, after comparing it with the run."""
        about, processes = checkpoint.manifest, run.processes
        # Manifests from before there were several processes do not say how many.
        before, saved, counts = about["run"], about.get("processes", 1), dict[str, Rescaled]()
        elsewhere = saved != processes.count
        if elsewhere:
            before, counts = rescaled(before, run.settings, before=saved, now=processes.count)
        changed = check_changes(before, now["run"], allow=self.allow_config_change)
        check_about(about, now)
        notices = [f"the run goes on with other settings: {'; '.join(map(str, changed))}"] if changed else []
        if elsewhere:
            notices.append(notice(about["run"], run.settings, before=saved, now=processes.count))
        for text in notices if processes.is_first else ():
            warnings.warn(text, RuntimeWarning, stacklevel=5)
        # Read by the first: the others may be on machines that do not see its folder.
        gathered = processes.first_only(lambda: read_parts(checkpoint.folder))
        packed = parts_for(gathered, processes, saved=saved)
        states = {name: unpack(part, part=name) for name, part in packed.items()}
        return Resumed(states, counts, keep_rates=bool(changed), elsewhere=elsewhere)


def describe(run: StagedRun) -> dict[str, Any]:
    """Return what a manifest says of a run as it is now: its settings and processes."""
    variant = {"method": run.variant.name, "method_settings": resolved(run.variant_settings)}
    # By it a checkpoint of parameters that were trained on other numbers is told.
    targets = {} if run.plan.targets is None else {"targets": dict(run.plan.targets)}
    return {"run": {**resolved(run.settings), **variant, **targets}, "processes": run.processes.count}


def fingerprints(run: StagedRun) -> dict[str, Any]:
    """Return what a manifest says of what a run stands on: base model, rows and versions."""
    trained = list(trainable_parameters(run.model).values())
    return {
        "base": base_fingerprint(run.model, trained=trained),
        "data": data_fingerprint(run.rows),
        "versions": versions(),
    }
