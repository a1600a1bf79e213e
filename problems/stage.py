"""A stage: one part of a run, with its levels, its rows and the values it starts from."""

from dataclasses import dataclass
from typing import Literal

from bilora.adapter.pruning import Cut
from bilora.errors import SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem

RowsOf = Literal["all", "lower", "upper"]
"""All the training rows, those of D1, or those of D2."""


@dataclass(frozen=True)
class Watch:
    """Early stopping of a stage on the part of the rows that it does not train on.

    Args:
        every: Steps between two measurements of the loss on D2.
        patience: Measurements in a row without a smaller loss after which the stage ends.

    Raises:
        SettingsError: One of them is below one.
    """

    every: int = 10
    patience: int = 5

    def __post_init__(self) -> None:
        for name in ("every", "patience"):
            if getattr(self, name) < 1:
                raise SettingsError(f"watch: {name} is {getattr(self, name)}, it must be at least 1")


@dataclass(frozen=True)
class Stage:
    """One part of a run, as data; a run is a tuple of stages, each taking the parameters from the one before.

    Args:
        name: Its name in files and callbacks; unique in a run.
        lower: The lower level, or the only one.
        upper: The upper level, which makes the stage bi-level, on D1 and D2; None trains ``lower`` alone.
        rows: The rows of a single level. On ``upper`` (D2) it has the upper level's settings and number of
            steps, otherwise the lower level's.
        steps: Optimizer steps; None for those of the run's settings. A stage of 0 steps only cuts ranks.
        share: Of the run's steps, where ``steps`` is None.
        rate: Share of the lower level's learning rate at which a single level goes on with the rows of ``upper``, under
            the lower level's settings and for its steps; None trains it as ``rows`` says.
        fresh: Whether the level's parameters start anew, from the values that they had before the run.
        cut: Ranks to cut before the first step, by the values that earlier stages have learned.
        watch: Early stopping on D2, for a stage that trains on D1 alone; ends with the best parameters.
        title: What people read of it while it runs.
        is_search: Whether its model is thrown away where another stage follows, so that neither early stopping nor the
            best validation looks at it.
        small_upper: Whether D2 may have fewer rows than a batch of the upper level, which is then all of D2.

    Raises:
        SettingsError: The parts do not fit each other.

    Example:
        >>> Stage("search", LowerProblem).splits
        False
    """

    name: str
    lower: type[LowerProblem]
    upper: type[UpperProblem] | None = None
    rows: RowsOf = "all"
    steps: int | None = None
    share: float = 1.0
    rate: float | None = None
    fresh: bool = False
    cut: Cut | None = None
    watch: Watch | None = None
    title: str = ""
    is_search: bool = False
    small_upper: bool = False

    def __post_init__(self) -> None:
        if self.upper is not None and self.rows != "all":
            raise SettingsError(f"stage {self.name!r}: a bi-level stage has its rows already; leave rows out")
        # On all rows, or on those of D2, it would train on the rows that it watches.
        if self.watch is not None and self.rows != "lower":
            raise SettingsError(f"stage {self.name!r}: only a stage on the rows of 'lower' can watch those of 'upper'")
        if self.rate is not None and (self.rows != "upper" or not self.rate > 0):
            raise SettingsError(
                f"stage {self.name!r}: rate is {self.rate}; it must be positive, on the rows of 'upper'"
            )
        if not 0 < self.share <= 1:
            raise SettingsError(f"stage {self.name!r}: share is {self.share}; it must be above 0, and at most 1")
        if self.steps is not None and self.steps < 0:
            raise SettingsError(f"stage {self.name!r}: steps is {self.steps}; it must not be negative")

    @property
    def splits(self) -> bool:
        """Whether it needs the rows divided into D1 and D2."""
        # A bi-level stage always does, whatever its rows: the upper level is trained on D2 alone.
        return self.upper is not None or self.rows != "all"
