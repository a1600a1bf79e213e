"""Saving during a run: every few steps, and when a signal asks the process to stop."""

import signal
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from bilora.artifacts.adapter_files import save_adapter
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.checkpoints.files import prune, write_checkpoint
from bilora.engines.checkpoints.processes import gathered_parts
from bilora.engines.checkpoints.stop_signals import StopSignals, agreed
from bilora.engines.settings import FitSettings
from bilora.errors import CheckpointError, InterruptedRun, ResourceError
from bilora.files.state import Packed, pack
from bilora.problems.replay.random_state import RandomState
from bilora.processes.processes import ONE_PROCESS, Processes


class Checkpoints(Callback):
    """Write ``checkpoint-<step>`` every ``save_every`` steps, and before a signal ends the run."""

    must_work = True
    # Set before the run. The adapter of the model is saved beside the state, ready for PEFT.
    model: nn.Module
    # The state of the run by part, and settings, fingerprints and versions for the manifest.
    collect: Callable[[], Mapping[str, Any]]
    describe: Callable[[], Mapping[str, Any]]

    def __init__(
        self, folder: Path | None, settings: FitSettings, *, signals: StopSignals, processes: Processes = ONE_PROCESS
    ) -> None:
        self.folder, self.settings = folder, settings
        self.saved: Path | None = None  # by this process, or the one that it was resumed from
        self._saved_at = -1
        self._signals, self._processes = signals, processes

    def on_stage_start(self, engine: BilevelEngine) -> None:
        # A stage that went back with smaller batches has removed the checkpoints of later steps.
        if self._saved_at > engine.step:
            self.saved, self._saved_at = None, -1

    def on_step_end(self, engine: BilevelEngine) -> None:
        # All processes save together, or none: each holds a part of the state.
        received = agreed(self._signals.received, self._processes)
        every = self.settings.save_every
        if received is not None or (every and engine.step % every == 0):
            self.save(engine)
        if received is not None:
            where = "nothing is saved" if self.saved is None else f"{self.saved} is the newest checkpoint"
            name = signal.Signals(received).name
            raise InterruptedRun(f"{name}: stopped after step {engine.step}; {where}", number=received)

    def save(self, engine: BilevelEngine) -> None:
        """Write a checkpoint of the step that was just made, unless there is one already."""
        # A signal, a schedule and a callback may ask for the same step.
        if self.folder is None or self._saved_at == engine.step:
            return
        folder, about = self.folder, self.describe()
        # In every process: each has random states and recorded batches of its own, which the first one writes too.
        packed = {name: pack(state, part=name) for name, state in self.collect().items()}
        parts = gathered_parts(packed, self._processes)
        try:
            # What PEFT does while it saves must not change a mask of the next step.
            with RandomState.take(engine.device).replayed():
                self.saved = self._processes.first_only(lambda: self._write(folder, engine.step, parts, about))
            self._saved_at = engine.step
        except ResourceError as error:
            # Of a long run the end may be worth more than the way to go on from the middle; the user says.
            if self.settings.on_save_error == "stop":
                raise
            if self._processes.is_first:
                warnings.warn(f"{error}; the run goes on (on_save_error: warn)", RuntimeWarning, stacklevel=2)

    def _write(self, folder: Path, step: int, parts: Mapping[str, Packed], about: Mapping[str, Any]) -> Path:
        model = self.model

        def adapter(unfinished: Path) -> None:
            if isinstance(model, PeftModel):
                save_adapter(model, unfinished / "adapter", fingerprint=about["base"])

        try:
            saved = write_checkpoint(folder, step, parts=parts, about=about, more=adapter)
        except OSError as error:
            raise ResourceError(f"checkpoint-{step} cannot be written: {error}") from error
        # Only now: until the new one is whole, the old ones are all that there is.
        if self.settings.save_total_limit:
            prune(folder, keep=self.settings.save_total_limit, newest=step)
        return saved


def check_about(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another base model or other data; warn where it is of other versions."""
    for name, what in (("base", "base model"), ("data", "training rows")):
        if before.get(name) != now[name]:
            raise CheckpointError(f"the {what} cannot change within a run: the fingerprint of the checkpoint differs")
    # Kernels change between versions of torch, and with them the last bits; that is no reason to lose the run.
    old, new = before.get("versions", {}), now["versions"]
    differing = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    if differing:
        warnings.warn(
            f"the checkpoint was written with other versions ({', '.join(differing)}); the run goes on, but not to the "
            "same bits",
            RuntimeWarning,
            stacklevel=2,
        )
