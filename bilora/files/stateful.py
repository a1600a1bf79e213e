"""What a part of a run must be able to do, so that a checkpoint can hold it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from bilora.errors import CheckpointError


class Stateful(Protocol):
    """A part of a run whose state can be taken, and given to a part built anew from the same settings.

    A state is a tree of dicts, lists, tuples, tensors, NumPy arrays, numbers, strings and None; nothing else is
    ever written. Loading takes all of it or raises: what is missing is never replaced by something fresh.
    """

    def state(self) -> Any:
        """Return the state; empty (``{}``) where there is none."""
        ...

    def load_state(self, state: Any) -> None:
        """Take the state over.

        Raises:
            CheckpointError: Something is missing, is left over, or does not fit; it says what.
        """
        ...


def check_keys(found: Any, expected: Collection[str], *, part: str) -> Mapping[str, Any]:
    """Return ``found`` if it is a mapping with exactly the expected keys.

    Args:
        found: A state, or one level of it.
        expected: Its keys.
        part: What it is the state of, for the error text.

    Raises:
        CheckpointError: With the names of the keys that are missing or left over.

    Example:
        >>> check_keys({"step": 3}, ["step", "best"], part="early stopping")
        Traceback (most recent call last):
            ...
        bilora.errors.CheckpointError: checkpoint incomplete: early stopping: best is missing
    """
    if not isinstance(found, Mapping):
        raise CheckpointError(f"checkpoint incomplete: {part} is missing")
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is left over" for name in found if name not in expected]
    if faults:
        what = "incomplete" if any(name not in found for name in expected) else "does not fit"
        raise CheckpointError(f"checkpoint {what}: {part}: {'; '.join(faults)}")
    return found
