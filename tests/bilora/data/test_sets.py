from collections import Counter

import pytest

from bilora.data.rows import Rows, check_rows
from bilora.data.sets import join_sets, shared_texts, take_validation
from bilora.errors import DataError
from bilora.tasks.catalog import TASKS

SST2, STSB = TASKS["sst2"], TASKS["stsb"]


def rows_of(labels: list[int], *, source: str = "toy") -> Rows:
    pairs = [{"sentence": f"text {index}", "label": label} for index, label in enumerate(labels)]
    return check_rows(enumerate(pairs, start=1), SST2, source=source, split="train")


def test_each_class_gives_its_share_and_the_draw_is_always_the_same() -> None:
    rows = rows_of([0] * 80 + [1] * 20)
    train, validation = take_validation(rows, 0.25)
    assert Counter(validation.labels) == {0: 20, 1: 5}
    assert sorted([*train.ids, *validation.ids]) == list(range(100))
    assert take_validation(rows, 0.25)[1].ids == validation.ids


def test_every_class_keeps_two_rows_for_the_two_levels() -> None:
    train, validation = take_validation(rows_of([0] * 10 + [1] * 3), 9 / 13)
    assert Counter(train.labels) == {0: 2, 1: 2}
    assert Counter(validation.labels) == {0: 8, 1: 1}
    # Where that leaves too few, one row of each stays.
    train, _ = take_validation(rows_of([0] * 10 + [1] * 3), 10 / 13)
    assert Counter(train.labels) == {0: 2, 1: 1}
    for share in (12 / 13, 0.001):
        with pytest.raises(DataError, match=r"a share of 0\..* of 13 rows cannot be taken"):
            take_validation(rows_of([0] * 10 + [1] * 3), share)


def test_numbers_are_drawn_over_their_whole_range() -> None:
    pairs = [{"sentence1": f"{n}", "sentence2": "b", "label": 5 * n / 99} for n in range(100)]
    rows = check_rows(enumerate(pairs, start=1), STSB, source="toy", split="train")
    _, validation = take_validation(rows, 0.2)
    assert Counter(int(label * 2 - 1e-9) for label in validation.labels) == dict.fromkeys(range(10), 2)  # type: ignore[operator]


def test_texts_in_both_are_counted() -> None:
    rows = rows_of([0, 1, 0, 1])
    assert shared_texts(SST2, rows.select([0, 1]), rows.select([1, 2, 3])) == 1
    sets = {"validation": rows.select([2, 3]), "other": rows_of([0], source="other")}
    joined = join_sets(SST2, rows.select([0, 1]), sets, ["first"])
    assert joined.notices == ("first", "1 of 1 other rows have the text of a training row")
    assert joined.task is SST2
