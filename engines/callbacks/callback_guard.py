"""Callbacks are told what happens; one that only looks on cannot end a run by failing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bilora.engines.callbacks.callback import Callback
from bilora.errors import BiloraError

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine


class CallbackGuard:
    """Tells every callback of an event, in order.

    What a callback with ``must_work`` raises ends the run, and so does any error of this library. Another one that
    fails (a tracker that is down, a full disk) is warned of once and not called again, but for ``on_close``.
    """

    def __init__(self) -> None:
        self._failed: set[int] = set()

    def tell(self, callbacks: Sequence[Callback], hook: Callable[[Callback], None], *, step: int) -> None:
        """Call one hook of every callback that has not failed."""
        for callback in callbacks:
            if id(callback) not in self._failed:
                self._guarded(callback, hook, step)

    def close(self, engine: BilevelEngine) -> None:
        """Close the engine's callbacks, each even if an earlier one cannot be."""
        with ExitStack() as closing:
            for callback in reversed(engine.callbacks):
                closing.callback(self._guarded, callback, lambda each: each.on_close(engine), engine.step)

    def _guarded(self, callback: Callback, hook: Callable[[Callback], None], step: int) -> None:
        try:
            hook(callback)
        except Exception as error:
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
