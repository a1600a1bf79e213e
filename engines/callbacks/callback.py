"""Everything that hangs on the engine without being part of it; each feature is a file of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bilora.engines.callbacks.records import StepRecord, ValidationRecord
from bilora.errors import BiloraError
from bilora.files.state import check_keys

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine


class Callback:
    """Base of all callbacks: every hook is here and does nothing.

    Attributes:
        must_work: Whether an error in a hook ends the run. A callback that only looks on is switched off with a
            warning instead; set this where the run is worth nothing without it.

    Example:
        >>> class StopAtTen(Callback):
        ...     def on_step(self, engine, record):
        ...         if record.step == 10:
        ...             engine.stop("ten steps are enough")
    """

    must_work = False

    def on_run_start(self, engine: BilevelEngine) -> None:
        """Before the first step of the run, or the first one after a resume."""

    def on_stage_start(self, engine: BilevelEngine) -> None:
        """Before a stage's first step, or its first one after a resume; ``engine.place`` says which stage it is."""

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        """After every lower optimizer step, and the upper step it set off."""

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        """After every validation."""

    def on_step_end(self, engine: BilevelEngine) -> None:
        """After a step and the validation it was due for: what a checkpoint takes here is whole."""

    def on_stage_end(self, engine: BilevelEngine) -> None:
        """After the last step and the last validation of a stage that ended well."""

    def on_run_end(self, engine: BilevelEngine) -> None:
        """After the end of the last stage of a run that ended well."""

    def on_close(self, engine: BilevelEngine) -> None:
        """Last of all, also when the run raised: close what was opened."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of this callback; nothing unless overridden."""
        return {}

    def load_state(self, state: Any) -> None:
        """Take over what :meth:`state` returned, before ``on_run_start``; override both or neither."""
        check_keys(state, (), part=f"callback {type(self).__name__}")


class CallbackGuard:
    """Tells every callback of an event, in order; one that only looks on and fails is warned of once and left out."""

    def __init__(self) -> None:
        # By identity: a user's callback may define ``__eq__``, and then has no hash.
        self._failed: set[int] = set()

    def tell(self, callbacks: Sequence[Callback], hook: Callable[[Callback], None], *, step: int) -> None:
        """Call one hook of every callback that has not failed."""
        for callback in callbacks:
            if id(callback) not in self._failed:
                self._guarded(callback, hook, step)

    def close(self, engine: BilevelEngine) -> None:
        """Close the engine's callbacks, each even if an earlier one cannot be."""
        # ExitStack calls the last one first, so reversed: in their order, and an error is raised when all are closed.
        with ExitStack() as closing:
            for callback in reversed(engine.callbacks):
                # The failed ones too: they may hold an open file.
                closing.callback(self._guarded, callback, lambda one: one.on_close(engine), engine.step)

    def _guarded(self, callback: Callback, hook: Callable[[Callback], None], step: int) -> None:
        try:
            hook(callback)
        except Exception as error:
            # An error of this library is a fault of the settings or the data, whoever notices it.
            if callback.must_work or isinstance(error, BiloraError):
                raise
            if id(callback) in self._failed:
                return
            self._failed.add(id(callback))
            warnings.warn(
                f"callback {type(callback).__name__} failed at step {step} ({type(error).__name__}: {error}); it is "
                "not called again in this run, which goes on without it",
                RuntimeWarning,
                stacklevel=2,
            )
