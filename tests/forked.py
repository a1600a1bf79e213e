"""Scripts in processes that are forked from one that has imported the library: they start within milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import weakref
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
# Python with these takes more than five seconds to start, once for all scripts.
FORKS.set_forkserver_preload(["bilora.commands.train", "bilora.compare.comparison"])


class Script:
    """A script in a process of its own, which prints into files."""

    def __init__(self, path: Path, *words: str, **environment: str) -> None:
        self._printed = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._printed)
        given = (str(path), words, environment, os.getcwd(), self._printed)
        self.process = FORKS.Process(target=_run, args=given, daemon=True)
        self.process.start()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None  # it has been started
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end and return what it printed."""
        self.process.join(timeout)
        out, errors = (self._printed.joinpath(name).read_text(encoding="utf-8") for name in ("out", "err"))
        assert self.poll() is not None, f"it still runs after {timeout} seconds: {errors[-3000:]}"
        return out, errors


def _run(path: str, words: tuple[str, ...], environment: dict[str, str], folder: str, printed: Path) -> None:
    # A shell has what it starts in the background ignore the interrupt, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(printed / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = [path, *words]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def scripts(path: Path, *words: str, count: int) -> list[Script]:
    """Start a script so many times, with the variables that torchrun gives to its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [Script(path, *words, RANK=rank, LOCAL_RANK=rank, **shared) for rank in map(str, range(count))]
