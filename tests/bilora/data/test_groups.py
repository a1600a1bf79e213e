"""Splits of whole groups: none on two sides, sizes and classes near to what is asked for."""

from collections import Counter

import pytest

from bilora.data.groups import group_folds, groups_of, take_groups
from bilora.data.rows import Rows
from bilora.data.sets import take_validation
from bilora.data.split import split_rows
from bilora.engines.settings import FitSettings
from bilora.engines.training.split_loaders import SplitLoaders
from bilora.errors import DataError

# 40 customers of 1 to 7 rows each, 160 in all.
CUSTOMERS = [f"customer {number}" for number in range(40) for _ in range(1 + 3 * number % 7)]
LABELS = [index % 2 for index in range(len(CUSTOMERS))]


def sides(parts: tuple[tuple[int, ...], ...], groups: list[str]) -> list[set[str]]:
    return [{groups[row] for row in part} for part in parts]


@pytest.mark.parametrize("ratio", [0.8, 0.5, 0.3])
def test_d1_and_d2_share_no_group_and_have_about_the_sizes_asked_for(ratio: float) -> None:
    for seed in range(5):
        split = split_rows(LABELS, ratio=ratio, seed=seed, groups=CUSTOMERS)
        lower, upper = sides((split.lower, split.upper), CUSTOMERS)
        assert not lower & upper
        assert sorted(split.lower + split.upper) == list(range(len(LABELS)))
        assert abs(len(split.lower) / len(LABELS) - ratio) < 0.08
        counts = Counter(LABELS[row] for row in split.upper)
        assert abs(counts[0] - counts[1]) <= 0.2 * len(split.upper)
    assert split_rows(LABELS, seed=1, groups=CUSTOMERS) != split_rows(LABELS, seed=2, groups=CUSTOMERS)
    # By the row, the same labels do tear groups apart.
    split = split_rows(LABELS, seed=0)
    lower, upper = sides((split.lower, split.upper), CUSTOMERS)
    assert lower & upper


def test_validation_rows_share_no_group_with_the_others_which_keep_theirs() -> None:
    pairs = tuple({"label": label, "customer": name} for label, name in zip(LABELS, CUSTOMERS, strict=True))
    numbers = tuple(range(len(pairs)))
    rows = Rows(pairs, "toy", numbers, numbers, groups=groups_of(pairs, "customer"))
    train, validation = take_validation(rows, 0.1)
    assert not set(train.groups or ()) & set(validation.groups or ())
    assert train.groups == tuple(CUSTOMERS[row] for row in train.ids)
    assert abs(len(validation) - 16) <= 3


def test_a_split_that_is_drawn_anew_keeps_groups_too() -> None:
    rows = [{"labels": label} for label in LABELS]
    loaders = SplitLoaders(rows, FitSettings(refresh=1), collate=list, groups=CUSTOMERS)
    loaders._take(loaders._drawn())
    first, second = loaders.splits
    assert first != second
    for split in loaders.splits:
        lower, upper = sides((split.lower, split.upper), CUSTOMERS)
        assert not lower & upper


def test_every_row_is_in_one_fold_and_every_group_too() -> None:
    folds = list(group_folds(LABELS, CUSTOMERS, 5, key="folds"))
    assert sorted(row for fold in folds for row in fold) == list(range(len(LABELS)))
    assert all(
        Counter(CUSTOMERS)[name] == count
        for fold in folds
        for name, count in Counter(CUSTOMERS[row] for row in fold).items()
    )


def test_a_row_without_a_group_is_one_of_its_own() -> None:
    rows = [{"who": "a"}, {"who": ""}, {"who": None}, {}, {"who": 1}, {"who": "1"}]
    names = groups_of(rows, "who")
    assert len(set(names)) == 5 and names[4] == names[5]


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DataError, match="the rows to divide are of 1 group, and a group stays on one side"):
        take_groups([0, 1, 0, 1], ["a"] * 4, share=0.2, key="")
    with pytest.raises(DataError, match="whichever of the 2 groups are taken, a class has all its rows in them"):
        take_groups([0, 0, 1, 1], ["a", "a", "b", "b"], share=0.2, key="")
