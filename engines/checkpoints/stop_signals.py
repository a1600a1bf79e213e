"""SIGTERM and SIGINT end a run after the step it is in."""

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from bilora.errors import InterruptedRun
from bilora.processes.processes import Processes

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Whether a signal asked the process to stop: its number, or None."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note signals instead of dying of them; a second SIGINT raises KeyboardInterrupt at once.

        Outside the main thread, where Python lets nobody handle signals, nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                _put_back(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def agreed(received: int | None, processes: Processes) -> int | None:
    """Return the signal that any process has received, the same in all; None if none has."""
    if not processes.any(received is not None):
        return None
    first: int = next(number for number in processes.gathered(received) if number is not None)
    return first


@contextmanager
def sigterm_raised() -> Iterator[None]:
    """Turn a SIGTERM outside of a training loop into InterruptedRun, so that open files are closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise InterruptedRun("SIGTERM: stopped between two runs", number=number)

    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        _put_back(signal.SIGTERM, earlier)


def end_at_once_when_told_again() -> None:
    """From now on let a SIGINT end the process, which is ending already, at once and with its exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
        # While Python shuts down it gives SIGINT its default back, which would end the process with another code.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _put_back(number: int, handler: Any) -> None:
    # Python gives None for a handler that it did not install, and does not take it back.
    signal.signal(number, signal.SIG_DFL if handler is None else handler)
