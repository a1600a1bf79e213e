"""Every error this library raises on purpose; all share one root, so that one ``except`` catches them."""

import functools
import reprlib
from collections.abc import Iterable
from typing import Any

# A value may be a megabyte of text, of which an error shows the ends.
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 60


class BiloraError(Exception):
    """Root of the errors raised on purpose."""


class SettingsError(BiloraError, ValueError):
    """A setting is unknown, out of range, or does not fit another one."""


class DataError(BiloraError, ValueError):
    """A data file or a row in it cannot be used."""


class LevelsError(BiloraError, ValueError):
    """The parameters of a model do not divide into a lower and an upper level."""


class ProcessesError(BiloraError, RuntimeError):
    """A process of a run on several processes is lost, or the processes were not given the same."""


class DivergedError(BiloraError, ArithmeticError):
    """A loss, a gradient or a hypergradient is not finite; nothing was stepped."""


class SelfCheckError(BiloraError, RuntimeError):
    """A saved adapter does not give the outputs that the trained model gave."""


class CheckpointError(BiloraError, ValueError):
    """A checkpoint, or a part of one, is missing, damaged, or of another run."""


class ResourceError(BiloraError, RuntimeError):
    """There is too little memory or disk space."""


class InterruptedRun(BiloraError):
    """The signal ``number`` ended the run after a whole step."""

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their positional arguments alone, so the keyword goes along here.
        return functools.partial(InterruptedRun, number=self.number), self.args


def first_ten(texts: Iterable[object], between: str = ", ") -> str:
    """Return the first ten of some texts as one, and how many more there are."""
    # Of a hundred thousand faults a reader needs a few, and a log none of the others.
    everything = list(texts)
    more = [f"and {len(everything) - 10:,} more"] if len(everything) > 10 else []
    return between.join([*map(str, everything[:10]), *more])
