"""Where a stage stands in its run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StagePlace:
    """The place of a stage among the stages of its run; by default it is the only one.

    Args:
        name: Name of the stage.
        index: Counts the stages of the run from 0.
        count: Number of stages.
        steps_before: Steps that the stages before it made, so that steps count on over the whole run.
        upper_steps_before: Upper steps that they made.
        steps_after: Steps that the stages after it will make, if nothing ends them early.

    Example:
        >>> StagePlace("retrain", index=1, count=2, steps_before=100).is_last
        True
    """

    name: str = "single"
    index: int = 0
    count: int = 1
    steps_before: int = 0
    upper_steps_before: int = 0
    steps_after: int = 0

    @property
    def is_first(self) -> bool:
        """Whether no stage comes before it."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether no stage comes after it."""
        return self.index == self.count - 1
