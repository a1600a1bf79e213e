"""Rows that belong together, such as those of one customer: whole groups are taken, so that none is on two sides."""

import hashlib
import math
import warnings
from collections.abc import Hashable, Iterator, Sequence

import numpy

from bilora.data.rows import Label, Row
from bilora.data.strata import make_strata
from bilora.errors import DataError

Groups = Sequence[Hashable]


def groups_of(rows: Sequence[Row], column: str) -> tuple[Hashable, ...]:
    """Return the group of each row, by its cell in a column; a row without one is a group of its own."""
    # By text: a list has no hash, and 1 in one file may be "1" in another.
    cells = [row.get(column) for row in rows]
    return tuple([("row", place) if cell in (None, "") else str(cell) for place, cell in enumerate(cells)])


def take_groups(labels: Sequence[Label], groups: Groups, *, share: float, key: str) -> tuple[int, ...]:
    """Return the positions of whole groups, about a ``share`` of the rows with the classes in proportion.

    Args:
        labels: The label of each row.
        groups: The group of each row.
        share: Above 0 and at most 0.5.
        key: By which the draw is decided.

    Raises:
        DataError: There are too few groups, or those of a class would all be taken.
    """
    parts = list(group_folds(labels, groups, math.floor(1 / share + 0.5), key=key))
    strata = _strata(labels)
    every = set(strata.tolist())
    # The one that is nearest in size, of which no class is all.
    for part in sorted(parts, key=lambda part: abs(len(part) - share * len(labels))):
        others = numpy.delete(strata, part)
        if every == set(others.tolist()):
            return tuple(part)
    raise DataError(
        f"whichever of the {len(set(groups)):,} groups are taken, a class has all its rows in them, and none would be "
        "left to learn it from; give more groups, or a file of its own as --validation-file"
    )


def group_folds(labels: Sequence[Label], groups: Groups, count: int, *, key: str) -> Iterator[list[int]]:
    """Yield the positions of the rows of each of at most ``count`` parts, which share no group.

    Raises:
        DataError: There is one group, or none.
    """
    # Here: it takes a second, which rows without groups need not wait for.
    from sklearn.model_selection import StratifiedGroupKFold

    different = len(set(groups))
    if different < 2:
        raise DataError(
            f"the rows to divide are of {different} group, and a group stays on one side; validation, D1 and D2 take a "
            "group each at least, so give rows of more groups, or leave out --group-column"
        )
    strata = _strata(labels)
    # scikit-learn wants a class that has a row for each part.
    folds = max(2, min(count, different, int(numpy.bincount(strata).max())))
    # Two rows of two classes: nothing to stratify by.
    strata = strata if numpy.bincount(strata).max() >= folds else numpy.zeros_like(strata)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of classes with fewer rows than parts, which are told by name elsewhere.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for _, part in splitter.split(strata, strata, [numbers[group] for group in groups]):
            if len(part):
                yield part.tolist()


def _strata(labels: Sequence[Label]) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]:
    strata = numpy.zeros(len(labels), dtype=numpy.int64)
    for number, positions in enumerate(make_strata(labels, bins=min(10, len(labels))).values()):
        strata[positions] = number
    return strata
