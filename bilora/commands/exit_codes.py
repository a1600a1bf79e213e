"""What every program that runs a config has in common: its errors, and its exit code."""

import errno
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bilora.commands.command_line import BAD_INPUT
from bilora.engines.checkpoints.stop_signals import end_at_once_when_told_again, sigterm_raised
from bilora.errors import BiloraError, DivergedError, InterruptedRun, ProcessesError, ResourceError, SelfCheckError
from bilora.files.whole_folders import is_full
from bilora.problems.levels.out_of_memory import is_out_of_memory
from bilora.settings.lookup import TRUST, told_by
from bilora.settings.sections import shortened

DIVERGED, NO_ROOM, INTERRUPTED = 3, 4, 130

# What an interrupt of a comparison is answered with.
FINISHED_ARE_KEPT = "interrupted; finished runs are in results.jsonl"

# The first row that fits counts: the root of all stands last.
CODES: dict[type[Exception], int] = {
    # As a fault of ours, which Python ends with 1 too.
    SelfCheckError: 1,
    # Another process is lost, and tells what is wrong.
    ProcessesError: 1,
    DivergedError: DIVERGED,
    ResourceError: NO_ROOM,
    BiloraError: BAD_INPUT,
}

# A name that is too long, goes through a file, into a folder or in a circle, or is not ours to read or write.
NO_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)

# How long another process waits before it prints an error; the launcher ends it as soon as the first has ended.
SECONDS_FOR_FIRST = 10.0


def asks_for_debug(argv: Sequence[str]) -> bool:
    """Return whether the words ask for tracebacks."""
    # Looked for by hand: the words may hold the mistake that is to be shown.
    return any(word == "--debug" or word.lower() == "--debug=true" for word in argv)


def exit_code(
    work: Callable[[Sequence[str]], object], argv: Sequence[str] = (), *, program: str, interrupted: str = "interrupted"
) -> int:
    """Do the work of a command line, and return the exit code, after a line where it is not 0.

    The line of an interrupt is ``interrupted``.
    """
    debug = asks_for_debug(argv)
    try:
        with sigterm_raised(), _one_line_warnings(program), told_by(argv):
            # No setting, so that no file can have it.
            work([word for word in argv if word.replace("_", "-") != TRUST])
    except KeyboardInterrupt:
        end_at_once_when_told_again()
        return _fail(program, interrupted, INTERRUPTED, debug=debug)
    except Exception as error:
        if (code := code_of(error)) is None:
            raise
        # The system's words name the file at most.
        cure = "" if isinstance(error, BiloraError) or not is_full(error) else "; make room, and start it again"
        return _fail(program, f"{error}{cure}", code, debug=debug)
    return 0


def code_of(error: Exception) -> int | None:
    """Return the exit code of an error, or None for one that nobody foresaw, whose traceback is worth seeing."""
    # As a shell does: 128 and the signal's number, 130 for SIGINT and 143 for SIGTERM.
    if isinstance(error, InterruptedRun):
        return 128 + error.number
    if is_full(error) or is_out_of_memory(error):
        return NO_ROOM
    # Of a path that the user gave; the error names it.
    if isinstance(error, OSError) and error.errno in NO_PATH:
        return BAD_INPUT
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), None)


def _fail(program: str, error: object, code: int, *, debug: bool) -> int:
    rank = int(os.environ.get("RANK", "0"))
    if rank > 0 and code < INTERRUPTED:
        # Most errors are the same everywhere: the first process prints it, and the launcher ends the others meanwhile.
        time.sleep(SECONDS_FOR_FIRST)
    if debug:
        traceback.print_exc()
    process = "" if rank == 0 else f"process {rank}: "
    print(f"{program}: error: {process}{shortened(str(error), most=10_000)}", file=sys.stderr)
    return code


@contextmanager
def _one_line_warnings(program: str) -> Iterator[None]:
    """Show a RuntimeWarning, and any warning of this library, as one line without a place in the source."""
    # These are about the user's settings and rows, which no line of ours explains; all others are about code.
    show_as_before, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, RuntimeWarning) or category.__module__.startswith("bilora."):
            # A file may be read in two places, each of which warns.
            if str(message) not in told:
                print(f"{program}: warning: {message}", file=sys.stderr)
            told.add(str(message))
        else:
            show_as_before(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
