"""Division of the training rows into D1 for the lower level and D2 for the upper level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bilora.data.groups import Groups, take_groups
from bilora.data.rows import Label
from bilora.data.strata import draw_rows, make_strata, share_out
from bilora.errors import DataError, SettingsError

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


def split_rows(
    labels: Sequence[Label], *, ratio: float = 0.8, seed: int, draw: int = 0, groups: Groups | None = None
) -> Split:
    """Return a stratified random split of the rows into D1, ``round(ratio * n)`` of them, and D2.

    Of ``groups``, one for each row, none is in both; the parts have about the sizes that are asked for then.
    """
    if not 0.0 < ratio < 1.0:
        raise SettingsError(f"ratio is {ratio!r}; it must lie between 0 and 1, both excluded (default 0.8)")
    if draw < 0:
        raise SettingsError(f"draw is {draw!r}; it counts from 0")
    # The first draw has the key it had before there were several, so that splits of earlier runs stay what they were.
    key = f"split {seed}" + (f" draw {draw}" if draw else "")
    if groups is not None:
        taken = take_groups(labels, groups, share=min(ratio, 1 - ratio), key=key)
        others = tuple(sorted(set(range(len(labels))) - set(taken)))
        lower, upper = (others, taken) if ratio >= 0.5 else (taken, others)
        return Split(lower, upper, seed, ratio, draw)
    target = round(ratio * len(labels))
    # No more strata than the smaller part has rows, or it could not hold one of each.
    room = min(target, len(labels) - target)
    strata = make_strata(labels, bins=min(QUANTILE_BINS, room), most=room)
    sizes = {stratum: len(rows) for stratum, rows in strata.items()}
    _check_room(sizes, target=target, ratio=ratio)
    # Each class has a row in both parts, but where it has one row, or D2 fewer rows than there are classes: then the
    # rarest are in D1 alone, since what the lower level has never seen nothing could learn.
    by_size = sorted((stratum for stratum in sizes if sizes[stratum] > 1), key=lambda stratum: -sizes[stratum])
    shared = set(by_size[: len(labels) - target])
    alone = [row for stratum, rows in strata.items() if stratum not in shared for row in rows]
    sizes = {stratum: size for stratum, size in sizes.items() if stratum in shared}
    counts = share_out(target - len(alone), sizes, least=1, spare=1) if sizes else {}
    drawn = draw_rows({stratum: strata[stratum] for stratum in sizes}, counts, key=key)
    lower = tuple(sorted([*drawn, *alone]))
    upper = tuple(sorted(set(range(len(labels))) - set(lower)))
    return Split(lower, upper, seed, ratio, draw)


def _check_room(sizes: Mapping[Label, int], *, target: int, ratio: float) -> None:
    rows = sum(sizes.values())
    if rows < 2:
        raise DataError(f"{rows} training rows cannot be split into a lower and an upper part; give two or more")
    # Rows of the classes that are in both parts, of which D2 is drawn.
    several = sum(size for size in sizes.values() if size > 1)
    if target < len(sizes) or not 1 <= rows - target <= several - sum(size > 1 for size in sizes.values()):
        raise DataError(
            f"ratio {ratio:g} of {rows} training rows gives {target} to the lower and {rows - target} to the "
            f"upper part, but the lower one must hold a row of each class (there are {len(sizes)}), and the upper one "
            "at least a row; move the ratio towards 0.5 or give more rows"
        )
