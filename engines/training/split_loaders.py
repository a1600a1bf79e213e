"""The data of the two levels: D1 and D2, drawn once or drawn anew every few epochs."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from bilora.data.groups import Groups
from bilora.data.loaders import Collate, make_loader
from bilora.data.row_marks import NumberedRows
from bilora.data.rows import Label
from bilora.data.split import Split, split_rows
from bilora.engines.settings import FitSettings
from bilora.errors import CheckpointError, SettingsError
from bilora.files.state import check_keys
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.processes.processes import ONE_PROCESS, Processes, Share


class Part(Sequence[Any]):
    """The rows at some positions of a dataset; the positions may be replaced between two epochs."""

    # Replaced, and not a new part: the loader of the level holds this one.
    def __init__(self, rows: Sequence[Any], positions: Sequence[int]) -> None:
        self.rows, self.positions = rows, tuple(positions)

    def __len__(self) -> int:
        """Return the number of rows of this part."""
        return len(self.positions)

    def __getitem__(self, index: Any) -> Any:
        """Return a row by its place in this part."""
        return self.rows[self.positions[index]]


class DividedRows(Sequence[Any]):
    """Rows that come as D1 and D2 already: one after the other, for a method that trains on all of them."""

    def __init__(self, lower: Sequence[Any], upper: Sequence[Any]) -> None:
        self.parts = (lower, upper)
        # Positions in the whole.
        self.lower, self.upper = range(len(lower)), range(len(lower), len(lower) + len(upper))

    def __len__(self) -> int:
        """Return the number of rows of both."""
        return self.upper.stop

    def __getitem__(self, index: Any) -> Any:
        """Return a row by its place, D1 first."""
        lower, upper = self.parts
        return lower[index] if index < len(lower) else upper[index - len(lower)]


def numbered(rows: Sequence[Any]) -> Sequence[Any]:
    """Return rows that hold their position, D1 first where they come as D1 and D2."""
    if not isinstance(rows, DividedRows):
        return NumberedRows(rows)
    lower, upper = rows.parts
    return DividedRows(NumberedRows(lower), NumberedRows(upper, first=len(lower)))


class SplitLoaders:
    """Loaders of D1 for the lower and D2 for the upper level."""

    # Rows with the same `group` stay together: a split is one of groups, in the order of the rows. Of those,
    # ``groups`` says which are never on two sides.
    def __init__(
        self,
        rows: Sequence[Any],
        settings: FitSettings,
        *,
        collate: Collate,
        processes: Processes = ONE_PROCESS,
        split: Split | None = None,
        groups: Groups | None = None,
        small_upper: bool = False,
    ) -> None:
        self._settings, self._collate = settings, collate
        # All that were drawn, the one in use last; none where D2 is given.
        self.splits: list[Split] = []
        if isinstance(rows, DividedRows):
            refuse_refresh(settings)
            self.lower_part, self.upper_part = Part(rows, rows.lower), Part(rows, rows.upper)
        else:
            self._groups, self._together = _groups(rows), groups
            self.labels = [_label(rows[group[0]]) for group in self._groups]
            self.lower_part, self.upper_part = Part(rows, ()), Part(rows, ())
            self._take(self._drawn() if split is None else split)
        if small_upper:
            self._settings = settings = with_upper_batch(settings, len(self.upper_part), processes.share)
        self.lower = level_loader(self.lower_part, settings, collate=collate, processes=processes)
        self.upper = level_loader(self.upper_part, settings, level="upper", collate=collate, processes=processes)
        self._epochs = 0

    def follow(self, lower: LowerProblem, upper: UpperProblem) -> None:
        """Draw a new split whenever the lower level has read D1 ``refresh`` times more."""
        refresh = self._settings.refresh
        if refresh:
            lower.epoch_listeners.append(lambda: self._end_of_epoch(upper, refresh))

    def state(self) -> dict[str, Any]:
        """Return how often a split was drawn, and the epochs since; the splits follow from the seed."""
        return {"draws": len(self.splits), "epochs": self._epochs, "rows": _digest(self.splits)}

    def load_state(self, state: Any) -> None:
        """Draw the same splits again; to be called before the loaders come back to their places."""
        saved = check_keys(state, ("draws", "epochs", "rows"), part="split")
        # Where D2 is given there was none drawn, then and now.
        while self.splits and len(self.splits) < saved["draws"]:
            self._take(self._drawn())
        # Other rows, another seed or another ratio give other splits.
        if (len(self.splits), _digest(self.splits)) != (saved["draws"], saved["rows"]):
            raise CheckpointError("checkpoint does not fit: split: the rows divide otherwise than they did then")
        self._epochs = saved["epochs"]

    def held_out(self) -> DataLoader[Any]:
        """Return a loader of D2 that gives the same batches each time."""
        size, seed = self._settings.upper.batch_size, self._settings.seed
        # Not shared between processes: each reads all of D2, see HeldOut.
        return make_loader(
            self.upper_part, batch_size=size, seed=seed, collate=self._collate, shuffle=False, part="upper"
        )

    def _end_of_epoch(self, upper: UpperProblem, refresh: int) -> None:
        self._epochs += 1
        if self._epochs % refresh == 0:
            self._take(self._drawn())
            # So that each epoch of D2 reads the whole of one D2.
            upper.restart_loader()

    def _drawn(self) -> Split:
        settings = self._settings
        ratio, draw = settings.split_ratio, len(self.splits)
        return split_rows(self.labels, ratio=ratio, seed=settings.seed, draw=draw, groups=self._together)

    def _take(self, split: Split) -> None:
        assert len(split.lower) + len(split.upper) == len(self._groups)  # drawn of these rows
        self.splits.append(split)
        for part, groups in ((self.lower_part, split.lower), (self.upper_part, split.upper)):
            part.positions = tuple(position for group in groups for position in self._groups[group])


def refuse_refresh(settings: FitSettings) -> None:
    """Refuse new draws of a D2 that is given."""
    if settings.refresh:
        raise SettingsError(f"refresh is {settings.refresh}, but D2 is a set of its own; set refresh to 0")


def with_upper_batch(settings: FitSettings, rows: int, share: Share) -> FitSettings:
    """Return the settings with all of D2 as a batch of the upper level, where it has fewer rows than one."""
    size = min(settings.upper.batch_size, max(1, rows // share.count))
    return dataclasses.replace(settings, upper=dataclasses.replace(settings.upper, batch_size=size))


def level_loader(
    rows: Sequence[Any],
    settings: FitSettings,
    *,
    collate: Collate,
    level: str = "lower",
    processes: Processes = ONE_PROCESS,
) -> DataLoader[Any]:
    """Return the loader of a level, under its settings; a single level is a lower one."""
    return make_loader(
        rows,
        batch_size=settings.lower.batch_size if level == "lower" else settings.upper.batch_size,
        # Two seeds, so that the orders of the two levels are not the same permutation. The same in all processes, which
        # share what it orders.
        seed=2 * settings.seed + (level == "upper"),
        collate=collate,
        part=level,
        group_by_length=settings.group_by_length,
        share=processes.share,
    )


def _digest(splits: Sequence[Split]) -> str:
    return hashlib.sha256(json.dumps([split.to_json() for split in splits]).encode()).hexdigest()


def _label(row: Any) -> Label:
    """Return the class or the number that is the row's label, or the set of its labels; None where it has none."""
    # None too where each token has a label: a list stratifies nothing.
    label = row.get("stratum", row.get("labels"))
    return label if isinstance(label, int | float | frozenset) else None


def _groups(rows: Sequence[Any]) -> list[list[int]]:
    """Return the positions of the rows of each group; a row without a group is one of its own."""
    groups: dict[Any, list[int]] = {}
    for position, row in enumerate(rows):
        # In a pair, since a group may be named by a number.
        groups.setdefault(row.get("group", ("row", position)), []).append(position)
    return list(groups.values())
