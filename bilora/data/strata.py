"""Stratified random choice of rows: groups by label, exact shares, a draw that depends on its key alone."""

import math
import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain, pairwise
from typing import TypeVar

from bilora.data.rows import Label
from bilora.errors import DataError

Stratum = TypeVar("Stratum", bound=Hashable)


def make_strata(labels: Sequence[Label], *, bins: int, most: int | None = None) -> dict[Label, list[int]]:
    """Return the positions of the rows by class, by one of ``bins`` equal shares of the numbers, or by rarest class."""
    kinds = {type(label) for label in labels}
    # 0, 0.0 and False are one key of a dict, though they mean different things as labels.
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"labels are of different types ({names}); all must be int, all float, all sets or all None")
    # All are of one kind; that is looked at once more for the type checker alone.
    if kinds == {float}:
        return _bins([label for label in labels if isinstance(label, float)], max(bins, 1))
    if kinds == {frozenset}:
        return _by_rarest([label for label in labels if isinstance(label, frozenset)], most or len(labels))
    return _grouped([label for label in labels if not isinstance(label, frozenset)])


def _grouped(labels: Sequence[int | float | None]) -> dict[Label, list[int]]:
    # In the order of the labels, not of the rows or a set: the draw of random numbers follows it.
    strata: dict[Label, list[int]] = {label: [] for label in sorted(set(labels), key=lambda label: label or 0)}
    for position, label in enumerate(labels):
        strata[label].append(position)
    return strata


def _by_rarest(labels: Sequence[frozenset[int]], most: int) -> dict[Label, list[int]]:
    counts = Counter(chain.from_iterable(labels))
    # A row counts with its rarest class, since that is the one that a draw could leave out of a part.
    strata = _grouped([min(row, key=lambda label: (counts[label], label), default=-1) for row in labels])
    # A stratum that cannot give a row to each part is joined to the largest, where a row more does least.
    by_size = sorted(strata, key=lambda stratum: len(strata[stratum]))
    while len(by_size) > 1 and (len(strata[by_size[0]]) < 2 or len(by_size) > most):
        smallest, largest = by_size.pop(0), by_size[-1]
        strata[largest] = sorted(strata[largest] + strata.pop(smallest))
    return strata


def share_out(total: int, sizes: Mapping[Stratum, int], *, least: int, spare: int) -> dict[Stratum, int]:
    """Return how many rows to take from each stratum: ``total`` in all, in proportion to the sizes."""
    # Largest remainders, in whole numbers, so that no rounding of floats decides: a stratum of n_c of n rows
    # has the quota total * n_c / n and gets it rounded down or up, unless a bound forbids it.
    whole = sum(sizes.values())
    most = {stratum: size - spare for stratum, size in sizes.items()}
    counts = {stratum: min(max(total * size // whole, least), most[stratum]) for stratum, size in sizes.items()}

    def lacks(stratum: Stratum) -> int:  # how far the stratum is below its quota, times the number of rows
        return total * sizes[stratum] - counts[stratum] * whole

    while sum(counts.values()) < total:
        counts[max((stratum for stratum in counts if counts[stratum] < most[stratum]), key=lacks)] += 1
    while sum(counts.values()) > total:
        counts[min((stratum for stratum in counts if counts[stratum] > least), key=lacks)] -= 1
    return counts


def draw_rows(strata: Mapping[Stratum, Sequence[int]], counts: Mapping[Stratum, int], *, key: str) -> tuple[int, ...]:
    """Return a random choice of ``counts`` positions from the strata, ascending; ``key`` alone decides it."""
    # Of Python's random numbers only random() is promised to be the same in every version; shuffle is not.
    random_numbers = random.Random(key)
    drawn: list[int] = []
    for stratum, positions in strata.items():
        ranks = [random_numbers.random() for _ in positions]
        order = sorted(range(len(positions)), key=ranks.__getitem__)
        drawn += [positions[index] for index in order[: counts[stratum]]]
    return tuple(sorted(drawn))


def _bins(labels: Sequence[float], bins: int) -> dict[Label, list[int]]:
    if not all(math.isfinite(label) for label in labels):
        raise DataError("labels hold NaN or an infinity; numbers must be finite to be put in order")
    order = sorted(range(len(labels)), key=labels.__getitem__)
    # In whole numbers, so that no rounding of floats decides where a bin ends.
    edges = [len(order) * edge // bins for edge in range(bins + 1)]
    return {index: sorted(order[low:high]) for index, (low, high) in enumerate(pairwise(edges))}
