"""Division of the training rows into D1 for the lower level and D2 for the upper level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bilora.data.rows import Label
from bilora.data.strata import draw_rows, make_strata, share_out
from bilora.errors import DataError, SettingsError, first_ten

QUANTILE_BINS = 10


@dataclass(frozen=True)
class Split:
    """Positions of the rows of D1 (``lower``) and D2 (``upper``); disjoint, each in ascending order."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]
    seed: int
    ratio: float  # fraction of the rows that went to lower
    draw: int = 0  # counts the splits of one run

    def to_json(self, *, ids: Sequence[int] | None = None) -> dict[str, Any]:
        """Return the split as a JSON object with the row ids of both parts."""
        names = range(len(self.lower) + len(self.upper)) if ids is None else ids
        return {
            "seed": self.seed,
            "ratio": self.ratio,
            "draw": self.draw,
            "lower": [names[position] for position in self.lower],
            "upper": [names[position] for position in self.upper],
        }


def split_rows(labels: Sequence[Label], *, ratio: float = 0.8, seed: int, draw: int = 0) -> Split:
    """Return a stratified random split of the rows into D1, ``round(ratio * n)`` of them, and D2."""
    if not 0.0 < ratio < 1.0:
        raise SettingsError(f"ratio is {ratio!r}; it must lie between 0 and 1, both excluded (default 0.8)")
    if draw < 0:
        raise SettingsError(f"draw is {draw!r}; it counts from 0")
    target = round(ratio * len(labels))
    # No more strata than the smaller part has rows, or it could not hold one of each.
    room = min(target, len(labels) - target)
    strata = make_strata(labels, bins=min(QUANTILE_BINS, room), most=room)
    sizes = {stratum: len(rows) for stratum, rows in strata.items()}
    _check_room(sizes, target=target, ratio=ratio)
    # Each class has a row in both parts: neither level could learn or judge a class that it has never seen.
    counts = share_out(target, sizes, least=1, spare=1)
    # The first draw has the key it had before there were several, so that splits of earlier runs stay what they were.
    lower = draw_rows(strata, counts, key=f"split {seed}" + (f" draw {draw}" if draw else ""))
    upper = tuple(sorted(set(range(len(labels))) - set(lower)))
    return Split(lower, upper, seed, ratio, draw)


def _check_room(sizes: Mapping[Label, int], *, target: int, ratio: float) -> None:
    rows = sum(sizes.values())
    if rows < 2:
        raise DataError(f"{rows} training rows cannot be split into a lower and an upper part; give two or more")
    alone = [str(stratum) for stratum, size in sizes.items() if size < 2]
    if alone:
        raise DataError(
            f"class {first_ten(alone)} has one training row, but each class needs one in the lower and one "
            f"in the upper part; rows per class: {_counts(sizes)}; add rows or leave the class out"
        )
    if min(target, rows - target) < len(sizes):
        raise DataError(
            f"ratio {ratio:g} of {rows} training rows gives {target} to the lower and {rows - target} to the "
            f"upper part, but each must hold a row of each class ({_counts(sizes)}); move the ratio towards "
            "0.5 or give more rows"
        )


def _counts(sizes: Mapping[Label, int]) -> str:
    return first_ten(f"{stratum}: {size}" for stratum, size in sizes.items())
