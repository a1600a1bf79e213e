"""Stratified random choice of rows: groups by label, exact shares, a draw that depends on its key alone."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from bilora.errors import DataError

Label = int | float | None
Stratum = TypeVar("Stratum", bound=Hashable)


def make_strata(labels: Sequence[Label], *, bins: int) -> dict[Label, list[int]]:
    """Return the positions of the rows, grouped by label.

    Args:
        labels: One a row, of one type: int (class indices), float (regression) or None (no label).
        bins: Number of groups for regression; at least one is made.

    Returns:
        For classes, class index to positions; for numbers, the number of the bin to positions, the bins being
        of equal size (up to one row) and in ascending order; for None, all positions in one group.

    Raises:
        DataError: The labels are of different types, or a number is not finite.

    Example:
        >>> make_strata([1, 0, 1], bins=10)
        {0: [1], 1: [0, 2]}
        >>> make_strata([0.5, 3.0, 1.0, 4.0], bins=2)
        {0: [0, 2], 1: [1, 3]}
    """
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"labels are of different types ({names}); all must be int, all float or all None")
    if kinds == {float}:
        return _bins([float(label) for label in labels if label is not None], max(bins, 1))
    strata: dict[Label, list[int]] = {label: [] for label in sorted(set(labels), key=lambda label: label or 0)}
    for position, label in enumerate(labels):
        strata[label].append(position)
    return strata


def share_out(total: int, sizes: Mapping[Stratum, int], *, least: int, spare: int) -> dict[Stratum, int]:
    """Return how many rows to take from each stratum: ``total`` in all, in proportion to the sizes.

    Largest remainders, in whole numbers, so that no rounding of floats decides: a stratum of n_c of n rows
    has the quota total * n_c / n and gets it rounded down or up, unless a bound forbids it.

    Args:
        total: Rows to take in all; between the sums of the lower and of the upper bounds.
        sizes: Rows there are in each stratum.
        least: Rows to take from every stratum at least.
        spare: Rows to leave in every stratum at least.

    Returns:
        Rows to take from each stratum.

    Example:
        >>> share_out(8, {0: 9, 1: 1}, least=0, spare=0)
        {0: 7, 1: 1}
        >>> share_out(8, {0: 8, 1: 2}, least=1, spare=1)
        {0: 7, 1: 1}
    """
    whole = sum(sizes.values())
    most = {stratum: size - spare for stratum, size in sizes.items()}
    counts = {stratum: min(max(total * size // whole, least), most[stratum]) for stratum, size in sizes.items()}

    def lacks(stratum: Stratum) -> int:  # how far the stratum is below its quota, times the number of rows
        return total * sizes[stratum] - counts[stratum] * whole

    while sum(counts.values()) < total:
        counts[max((each for each in counts if counts[each] < most[each]), key=lacks)] += 1
    while sum(counts.values()) > total:
        counts[min((each for each in counts if counts[each] > least), key=lacks)] -= 1
    return counts


def draw_rows(strata: Mapping[Stratum, Sequence[int]], counts: Mapping[Stratum, int], *, key: str) -> tuple[int, ...]:
    """Return a random choice of ``counts`` positions from the strata, in ascending order.

    Args:
        strata: Positions in each stratum.
        counts: How many to draw from each.
        key: What the draw is for and its seed (``"split 0"``); the result depends on nothing else. Different
            uses of one seed need different keys, or their choices would go together.

    Returns:
        The positions drawn, without repetition.

    Example:
        >>> draw_rows({0: [0, 1, 2]}, {0: 3}, key="any")
        (0, 1, 2)
    """
    # Of Python's random numbers only random() is promised to be the same in every version; shuffle is not.
    random_numbers = random.Random(key)
    chosen: list[int] = []
    for stratum, positions in strata.items():
        ranks = [random_numbers.random() for _ in positions]
        order = sorted(range(len(positions)), key=ranks.__getitem__)
        chosen += [positions[place] for place in order[: counts[stratum]]]
    return tuple(sorted(chosen))


def _bins(labels: Sequence[float], bins: int) -> dict[Label, list[int]]:
    if not all(math.isfinite(label) for label in labels):
        raise DataError("labels hold NaN or an infinity; numbers must be finite to be put in order")
    order = sorted(range(len(labels)), key=lambda position: (labels[position], position))
    edges = [len(order) * each // bins for each in range(bins + 1)]
    parts = [order[low:high] for low, high in zip(edges, edges[1:], strict=False)]
    return {index: sorted(part) for index, part in enumerate(parts)}
