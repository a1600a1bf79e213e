"""Steps that a level leaves out because a number in them is not finite: how many it may, and how many it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bilora.files.stateful import check_keys

KEYS = ("in_row", "total")


@dataclass
class SkippedSteps:
    """Counts the skipped steps of a level.

    Attributes:
        allowed: How many in a row may be skipped; with 0 the first one ends the run.
        in_row: Those since the last step that was taken.
        total: All of them.

    Example:
        >>> skipped = SkippedSteps(allowed=1)
        >>> [skipped.skip(), skipped.skip()], skipped.total
        ([True, False], 1)
        >>> skipped.took()
        >>> skipped.skip()
        True
    """

    allowed: int = 0
    in_row: int = 0
    total: int = 0

    def took(self) -> None:
        """Count a step that was taken: the row ends."""
        self.in_row = 0

    def skip(self) -> bool:
        """Count a step that is to be skipped; False, and nothing is counted, where it may not be."""
        if self.in_row >= self.allowed:
            return False
        self.in_row += 1
        self.total += 1
        return True

    def state(self) -> dict[str, Any]:
        """Return the counts; how many are allowed is a setting."""
        return {name: getattr(self, name) for name in KEYS}

    def load_state(self, state: Any, *, part: str) -> None:
        """Go on counting from there."""
        found = check_keys(state, KEYS, part=part)
        self.in_row, self.total = found["in_row"], found["total"]
