"""The rows of a setting: trusted ones, and doubtful ones whose labels go wrong in a way that is known."""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trusted_protocol import TrustedSetting

from bilora.data.flipped_labels import flip_labels
from bilora.data.rows import Rows
from bilora.data.strata import draw_rows, make_strata
from bilora.tasks.task import AnyTask

SOURCE = "source"


@dataclass(frozen=True)
class DrawnRows:
    """The training rows of one seed of a setting."""

    doubtful: Rows  # with the labels that are given
    trusted: Rows
    true: Rows  # the doubtful rows with the labels that are right, for the ceiling alone

    @property
    def wrong(self) -> float:
        """Share of the doubtful rows whose label is wrong."""
        pairs = zip(self.doubtful.labels, self.true.labels, strict=True)
        return sum(given != true for given, true in pairs) / len(self.true)


def draw(setting: TrustedSetting, task: AnyTask, rows: Rows, *, seed: int) -> DrawnRows:
    """Return trusted and doubtful rows, drawn of a training set with the seed; none has the text of another part."""
    ids: Mapping[str, int] = task.model_settings["label2id"]
    column = setting.true_column
    right = rows if column is None else relabelled(rows, [ids[str(row[column])] for row in rows])
    strata = make_strata(right.labels, bins=1)
    trusted = draw_rows(strata, dict.fromkeys(strata, setting.trusted), key=f"trusted {seed}")
    taken = {task.text_of(right[index]) for index in trusted}
    left = {label: [i for i in some if task.text_of(right[i]) not in taken] for label, some in strata.items()}
    drawn = draw_rows(*_counts(setting, ids, left), key=f"doubtful {seed}")
    true, given = right.select(drawn), rows.select(drawn)
    return DrawnRows(_mislabelled(setting, task, given, seed=seed), right.select(trusted), true)


def _counts(setting: TrustedSetting, ids: Mapping[str, int], left: Mapping[Any, Sequence[int]]) -> tuple[Any, Any]:
    """Return the strata of the doubtful rows, and how many are drawn of each."""
    if setting.frequent_first is not None:
        assert setting.rows is not None
        sizes = long_tail(setting.rows, setting.imbalance, classes=len(setting.frequent_first))
        return left, {ids[name]: size for name, size in zip(setting.frequent_first, sizes, strict=True)}
    if setting.rows_per_class is not None:
        return left, dict.fromkeys(left, setting.rows_per_class)
    # As the classes come.
    return {None: sorted(index for some in left.values() for index in some)}, {None: setting.rows}


def long_tail(largest: int, imbalance: float, *, classes: int) -> list[int]:
    """Return sizes ``largest * imbalance^(-k / (classes - 1))``, of k from 0 (Cui et al. 2019, arXiv 1901.05555)."""
    return [round(largest * imbalance ** (-k / (classes - 1))) for k in range(classes)]


def _mislabelled(setting: TrustedSetting, task: AnyTask, rows: Rows, *, seed: int) -> Rows:
    if setting.flips is not None:
        return flip_labels(rows, setting.flips, task=task, seed=seed)
    if setting.flips_to_next is not None:
        return flip_to_next(rows, setting.flips_to_next, classes=len(task.model_settings["label2id"]), seed=seed)
    if setting.flips_by_source is not None:
        return flip_by_source(rows, setting.flips_by_source, task=task, seed=seed)
    return rows


def flip_to_next(rows: Rows, share: float, *, classes: int, seed: int) -> Rows:
    """Return the rows, each with probability ``share`` under the class behind its own, the first behind the last."""
    draws = random.Random(f"flip to next {seed}")
    labels = [int(label) for label in rows.labels if isinstance(label, int)]
    return relabelled(rows, [(label + 1) % classes if draws.random() < share else label for label in labels])


def flip_by_source(rows: Rows, shares: Sequence[float], *, task: AnyTask, seed: int) -> Rows:
    """Return the rows, dealt out at random to as many sources as there are shares, each flipped with its own."""
    draws = random.Random(f"sources {seed}")
    ranks = [draws.random() for _ in rows]
    order = sorted(range(len(rows)), key=ranks.__getitem__)
    place = {index: rank % len(shares) for rank, index in enumerate(order)}
    flipped = [flip_labels(rows, share, task=task, seed=seed) for share in shares]
    mixed = [
        MappingProxyType({**flipped[place[index]][index], SOURCE: f"source {place[index]}"})
        for index in range(len(rows))
    ]
    return dataclasses.replace(rows, rows=tuple(mixed))


def relabelled(rows: Rows, labels: Sequence[int]) -> Rows:
    """Return the rows with other labels."""
    pairs = zip(rows, labels, strict=True)
    return dataclasses.replace(rows, rows=tuple(MappingProxyType({**row, "label": label}) for row, label in pairs))


def joined(first: Rows, second: Rows, *, copies: int = 1) -> Rows:
    """Return the rows of both, the second ones several times."""
    parts: list[Callable[[Rows], tuple[Any, ...]]] = [lambda r: r.rows, lambda r: r.lines, lambda r: r.ids]
    rows, lines, ids = (of(first) + of(second) * copies for of in parts)
    return Rows(rows, first.source, lines, ids)
