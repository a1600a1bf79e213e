"""Wrong labels on purpose: a share of the rows gets another class, for studies of what noise does to a method."""

from __future__ import annotations

import dataclasses
import random
from types import MappingProxyType
from typing import TYPE_CHECKING

from bilora.data.rows import Rows
from bilora.errors import SettingsError

if TYPE_CHECKING:
    from bilora.tasks.task import AnyTask


def flip_labels(rows: Rows, share: float, *, task: AnyTask, seed: int) -> Rows:
    """Return the rows, each with probability ``share`` under one of the other classes, all of them equally likely."""
    if any(type(row["label"]) is not int for row in rows):
        raise SettingsError(
            f"flip_labels is {share:g}, and a row of task {task.name!r} has no class, or any number of them: only a "
            "single class has others to be exchanged for; leave it out"
        )
    classes = len(task.class_counts(rows))
    # Of Python's random numbers only random() is promised to be the same in every version.
    random_numbers = random.Random(f"flip {seed}")
    flipped = []
    for row in rows:
        # Both are always drawn, so that the flips of a smaller share are among those of a larger one.
        chosen, other = random_numbers.random() < share, int(random_numbers.random() * (classes - 1))
        # The classes without the row's own, in their order.
        flipped.append(MappingProxyType({**row, "label": other + (other >= row["label"])}) if chosen else row)
    return dataclasses.replace(rows, rows=tuple(flipped))
