"""SIGTERM and SIGINT end a run after the step it is in."""

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from bilora.errors import InterruptedRun
from bilora.processes.processes import Processes

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Whether a signal asked the process to stop: its number, or None."""

    received: int | None = None

    def watched(self) -> AbstractContextManager[None]:
        """Note signals instead of dying of them; a second SIGINT raises KeyboardInterrupt at once."""
        return _handled(self._note, *SIGNALS)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A user who presses Ctrl-C twice means now; a scheduler repeats its SIGTERM all the time.
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def agreed(received: int | None, processes: Processes) -> int | None:
    """Return the signal that any process has received, the same in all; None if none has."""
    # First one number for all, which is cheap: this is asked after every step.
    if not processes.any(received is not None):
        return None
    first: int = next(number for number in processes.gathered(received) if number is not None)
    return first


def sigterm_raised() -> AbstractContextManager[None]:
    """Turn a SIGTERM outside of a training loop into InterruptedRun, so that open files are closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise InterruptedRun("SIGTERM: stopped between two runs", number=number)

    return _handled(stop, signal.SIGTERM)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    # Outside the main thread Python lets nobody handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in earlier.items():
            # Python gives None for a handler that it did not install, and does not take it back.
            signal.signal(number, signal.SIG_DFL if before is None else before)


def end_at_once_when_told_again() -> None:
    """From now on let a SIGINT end the process, which is ending already, at once and with its exit code."""
    if threading.current_thread() is threading.main_thread():
        # Not sys.exit: that would run the clean-up which the user is tired of waiting for.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
        # While Python shuts down it gives SIGINT its default back, which would end the process with another code.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
