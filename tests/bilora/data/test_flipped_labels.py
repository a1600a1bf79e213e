"""Labels flipped on purpose: how many, to what, and by which draw."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest

from bilora.data.flipped_labels import flip_labels
from bilora.data.rows import Rows, check_rows
from bilora.errors import SettingsError
from bilora.tasks.catalog import TASKS
from bilora.tasks.text.task import TextTask

FOUR = TextTask("four", ("text",), ("a", "b", "c", "d"))


def rows_of(task: Any, labels: Any) -> Rows:
    rows = ({"sentence1": "s", "sentence2": "t", "text": "u", "label": label} for label in labels)
    return check_rows(enumerate(rows, start=1), task, source="made", split="train")


def test_the_share_is_flipped_to_every_other_class_alike_and_never_to_the_same() -> None:
    count, share = 12_000, 0.25
    rows = rows_of(FOUR, itertools.islice(itertools.cycle(range(4)), count))
    flipped = flip_labels(rows, share, task=FOUR, seed=3)
    assert (flipped.ids, flipped.lines) == (rows.ids, rows.lines)
    moves = Counter(zip(rows.labels, flipped.labels, strict=True))
    wrong = {move: number for move, number in moves.items() if move[0] != move[1]}
    # Five standard deviations of a binomial count: of all flips, and of each of the twelve kinds.
    assert abs(sum(wrong.values()) - count * share) < 5 * math.sqrt(count * share * (1 - share))
    assert len(wrong) == 12
    for number in wrong.values():
        assert abs(number - 250) < 5 * math.sqrt(250)


def test_the_seed_alone_decides_and_a_smaller_share_flips_some_of_the_same_rows() -> None:
    rows = rows_of(FOUR, [0, 1, 2, 3] * 50)
    once, again, other = (flip_labels(rows, 0.3, task=FOUR, seed=seed) for seed in (1, 1, 2))
    assert once.labels == again.labels != other.labels
    fewer = flip_labels(rows, 0.1, task=FOUR, seed=1)
    moved = [{row for row in range(200) if part.labels[row] != rows.labels[row]} for part in (fewer, once)]
    assert moved[0] < moved[1]
    assert all(fewer.labels[row] == once.labels[row] for row in moved[0])


def test_of_two_classes_the_other_one_is_taken() -> None:
    two = TextTask("two", ("text",), ("no", "yes"))
    assert flip_labels(rows_of(two, [0, 1, 1]), 1 - 1e-12, task=two, seed=0).labels == (1, 0, 0)


def test_numbers_and_sets_of_labels_have_no_other_class() -> None:
    with pytest.raises(SettingsError, match=r"flip_labels is 0.2, and a row of task 'stsb' has no class"):
        flip_labels(rows_of(TASKS["stsb"], [1.5, 2.0]), 0.2, task=TASKS["stsb"], seed=0)
    sets = Rows(({"label": frozenset({1})},), "made", (1,), (0,))
    with pytest.raises(SettingsError, match="flip_labels"):
        flip_labels(sets, 0.2, task=FOUR, seed=0)
