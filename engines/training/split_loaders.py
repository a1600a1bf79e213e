"""The data of the two levels: D1 and D2, drawn once or drawn anew every few epochs."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from bilora.data.loaders import Collate, make_loader
from bilora.data.rows import Label
from bilora.data.split import Split, split_rows
from bilora.engines.settings import FitSettings
from bilora.errors import CheckpointError, SettingsError
from bilora.files.state import check_keys
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.processes.processes import ONE_PROCESS, Processes


class Part(Sequence[Any]):
    """The rows at some positions of a dataset; the positions may be replaced between two epochs.

    Example:
        >>> part = Part(["a", "b", "c"], (0, 2))
        >>> list(part)
        ['a', 'c']
    """

    def __init__(self, rows: Sequence[Any], positions: Sequence[int]) -> None:
        self.rows = rows
        self.positions = tuple(positions)

    def __len__(self) -> int:
        """Return the number of rows of this part."""
        return len(self.positions)

    def __getitem__(self, index: Any) -> Any:
        """Return a row by its place in this part."""
        return self.rows[self.positions[index]]


class DividedRows(Sequence[Any]):
    """Rows that come as D1 and D2 already: one after the other, for a method that trains on all of them.

    Example:
        >>> rows = DividedRows(["a", "b"], ["c"])
        >>> list(rows), rows.lower, rows.upper
        (['a', 'b', 'c'], range(0, 2), range(2, 3))
    """

    def __init__(self, lower: Sequence[Any], upper: Sequence[Any]) -> None:
        self.parts = (lower, upper)
        self.lower = range(len(lower))
        self.upper = range(len(lower), len(lower) + len(upper))

    def __len__(self) -> int:
        """Return the number of rows of both."""
        return self.upper.stop

    def __getitem__(self, index: Any) -> Any:
        """Return a row by its place, D1 first."""
        lower, upper = self.parts
        return lower[index] if index < len(lower) else upper[index - len(lower)]


class SplitLoaders:
    """Loaders of D1 for the lower and D2 for the upper level.

    Args:
        rows: Encoded training rows, with ``labels`` where the split is to be stratified. Those with the same
            ``group`` stay together, and a split is then one of groups. Of :class:`DividedRows` nothing is drawn.
        settings: Split ratio, refresh, batch sizes and seed.
        collate: Makes a batch of a list of rows.
        processes: The processes that read the rows together.
        split: The first split, of the groups in the order of the rows, where it was drawn before.

    Attributes:
        splits: Every split drawn so far, the one in use last; none where D2 is given.

    Raises:
        SettingsError: D2 is given, and a new one is to be drawn every few epochs.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        settings: FitSettings,
        *,
        collate: Collate,
        processes: Processes = ONE_PROCESS,
        split: Split | None = None,
    ) -> None:
        self.refresh = settings.refresh or 0
        self._settings = settings
        self._collate = collate
        self.splits: list[Split] = []
        if isinstance(rows, DividedRows):
            refuse_refresh(settings)
            self.lower_part, self.upper_part = Part(rows, rows.lower), Part(rows, rows.upper)
        else:
            self._groups = _groups(rows)
            self.labels = [_label(rows[group[0]]) for group in self._groups]
            self.lower_part, self.upper_part = Part(rows, ()), Part(rows, ())
            self._take(self._drawn() if split is None else split)
        self.lower = _loader(self.lower_part, settings, collate, level="lower", processes=processes)
        self.upper = _loader(self.upper_part, settings, collate, level="upper", processes=processes)
        self._epochs = 0

    def follow(self, lower: LowerProblem, upper: UpperProblem) -> None:
        """Draw a new split whenever the lower level has read D1 ``refresh`` times more."""
        if self.refresh:
            lower.epoch_listeners.append(lambda: self._end_of_epoch(upper))

    def state(self) -> dict[str, Any]:
        """Return how often a split was drawn, and the epochs since; the splits follow from the seed."""
        return {"draws": len(self.splits), "epochs": self._epochs, "rows": _digest(self.splits)}

    def load_state(self, state: Any) -> None:
        """Draw the same splits again; to be called before the loaders come back to their places.

        Raises:
            CheckpointError: Other rows, another seed or another ratio gave other splits.
        """
        found = check_keys(state, ("draws", "epochs", "rows"), part="split")
        # Where D2 is given there was none drawn, then and now.
        while self.splits and len(self.splits) < found["draws"]:
            self._take(self._drawn())
        if (len(self.splits), _digest(self.splits)) != (found["draws"], found["rows"]):
            raise CheckpointError("checkpoint does not fit: split: the rows divide otherwise than they did then")
        self._epochs = found["epochs"]

    def held_out(self) -> DataLoader[Any]:
        """Return a loader of D2 that gives the same batches each time."""
        return make_loader(
            self.upper_part,
            batch_size=self._settings.upper.batch_size,
            seed=self._settings.seed,
            collate=self._collate,
            shuffle=False,
            part="upper",
        )

    def _end_of_epoch(self, upper: UpperProblem) -> None:
        self._epochs += 1
        if self._epochs % self.refresh != 0:
            return
        self._take(self._drawn())
        # So that each epoch of D2 reads the whole of one D2.
        upper.restart_loader()

    def _drawn(self) -> Split:
        settings = self._settings
        return split_rows(self.labels, ratio=settings.split_ratio, seed=settings.seed, draw=len(self.splits))

    def _take(self, split: Split) -> None:
        assert len(split.lower) + len(split.upper) == len(self._groups)  # drawn of these rows
        self.splits.append(split)
        for part, groups in ((self.lower_part, split.lower), (self.upper_part, split.upper)):
            part.positions = tuple(position for group in groups for position in self._groups[group])


def refuse_refresh(settings: FitSettings) -> None:
    """Refuse new draws of a D2 that is given."""
    if settings.refresh:
        raise SettingsError(f"refresh is {settings.refresh}, but D2 is a set of its own; set refresh to 0")


def whole_loader(
    rows: Sequence[Any], settings: FitSettings, *, collate: Collate, processes: Processes = ONE_PROCESS
) -> DataLoader[Any]:
    """Return the loader of a single-level method: all the rows, under the lower level's settings."""
    return _loader(rows, settings, collate, level="lower", processes=processes)


def _loader(
    rows: Sequence[Any], settings: FitSettings, collate: Collate, *, level: str, processes: Processes
) -> DataLoader[Any]:
    own = settings.lower if level == "lower" else settings.upper
    # Two seeds, so that the orders of the two levels are not the same permutation.
    seed = 2 * settings.seed + (level == "upper")
    return make_loader(
        rows,
        batch_size=own.batch_size,
        # The same in all processes, which share what it orders.
        seed=seed,
        collate=collate,
        part=level,
        group_by_length=settings.group_by_length,
        share=processes.share,
    )


def _digest(splits: Sequence[Split]) -> str:
    return hashlib.sha256(json.dumps([split.to_json() for split in splits]).encode()).hexdigest()


def _label(row: Any) -> Label:
    """Return the class or the number that is the row's label, or the set of its labels; None where it has none."""
    label = row.get("stratum", row.get("labels"))
    return label if isinstance(label, int | float | frozenset) else None


def _groups(rows: Sequence[Any]) -> list[list[int]]:
    """Return the positions of the rows of each group; a row without a group is one of its own."""
    found: dict[Any, list[int]] = {}
    for position, row in enumerate(rows):
        found.setdefault(row.get("group", ("row", position)), []).append(position)
    return list(found.values())
