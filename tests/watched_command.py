"""The command in this process under a watchdog: how it ended, after one line at most."""

import contextlib
import io
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import bilora_command

SECONDS = 10

# What a training of a second is made with.
QUICK = ["--steps", "2", "--unroll_steps", "1", "--lower.batch_size", "4", "--upper.batch_size", "4", "--max_length"]
QUICK += ["16", "--validate_every", "2", "--device", "cpu"]


class Hang(BaseException):
    """The watchdog's; no handler of the command takes it."""


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang(f"longer than {SECONDS} s")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Ended:
    """The exit code, all that stood on stderr, and what was printed."""

    code: int
    said: str
    printed: str


def ended(words: list[str]) -> Ended:
    """Run the command; whatever it raises is what a user would see as a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), watched(), warnings.catch_warnings():
        # As outside of the tests, where a warning ends nothing.
        warnings.simplefilter("default")
        try:
            code = bilora_command.main(words)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
    said = err.getvalue()
    assert "Traceback" not in said, said
    if code:
        lines = [line for line in said.splitlines() if ": error: " in line]
        assert len(lines) == 1, f"exit {code} after {said!r}"
    return Ended(code, said, out.getvalue())
