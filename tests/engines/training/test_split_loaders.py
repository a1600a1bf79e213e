"""D1 and D2 as loaders, drawn once or anew."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch

from bilora.data.split import Split, split_rows
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.split_loaders import DividedRows, Part, SplitLoaders, level_loader
from bilora.errors import SettingsError

Fit = Callable[..., Any]
LABELS = [row % 2 for row in range(40)]


def settings(**values: Any) -> FitSettings:
    level = LevelSettings(batch_size=4)
    return FitSettings(**{"lower": level, "upper": level, **values})


def rows() -> list[dict[str, Any]]:
    return [{"row": row, "labels": label} for row, label in enumerate(LABELS)]


def order(loader: Any) -> list[int]:
    return [row["row"] for batch in loader for row in batch]


@pytest.mark.parametrize("refresh", [1, 2, 3])
def test_refresh_draws_disjoint_stratified_splits_and_batches_follow(fit_pair: Fit, refresh: int) -> None:
    # 32 rows below in batches of 4: an epoch is 8 steps. 8 rows above: its epochs end at other steps.
    fitted = fit_pair(steps=40, unroll_steps=3, refresh=refresh)
    splits, seen = fitted.result.splits, fitted.model.seen
    assert len(splits) == 1 + (40 - 1) // (8 * refresh)
    assert len({split.upper for split in splits}) == len(splits)
    for split in splits:
        assert sorted((*split.lower, *split.upper)) == list(range(40))
        assert sum(LABELS[row] for row in split.upper) == 4
    # Every epoch below reads the whole of the split it belongs to; every third step is one above, on the same split.
    for epoch in range(5):
        read = chain(*seen["lower"][8 * epoch : 8 * epoch + 8])
        assert sorted(read) == sorted(splits[epoch // refresh].lower)
    for step, batch in enumerate(seen["upper"], start=1):
        assert set(batch) <= set(splits[(3 * step - 1) // (8 * refresh)].upper)


def test_the_upper_level_starts_its_new_rows_from_the_beginning(fit_pair: Fit) -> None:
    """Its epoch is cut short by a refresh; the next four batches of two are the whole of the new D2."""
    fitted = fit_pair(steps=32, unroll_steps=3, refresh=2, upper=LevelSettings(batch_size=2))
    first, second = fitted.result.splits
    batches = fitted.model.seen["upper"]  # of steps 3, 6, ... 15 before the refresh, and 18, 21, ... after it
    assert sorted(chain(*batches[:4])) == list(first.upper)
    assert sorted(chain(*batches[5:9])) == list(second.upper)


def test_later_draws_depend_on_the_seed_and_without_refresh_there_are_none(fit_pair: Fit) -> None:
    assert len(fit_pair(steps=40).result.splits) == 1
    first, same, other = (fit_pair(steps=40, refresh=1, seed=seed).result.splits for seed in (0, 0, 1))
    assert first == same
    assert [split.upper for split in first] != [split.upper for split in other]


def test_first_split_is_that_of_the_seed_and_ratio_and_batch_sizes_are_the_levels_own() -> None:
    sizes = {"lower": LevelSettings(batch_size=8), "upper": LevelSettings(batch_size=2)}
    loaders = SplitLoaders(rows(), settings(seed=5, split_ratio=0.6, **sizes), collate=list)
    split = split_rows(LABELS, ratio=0.6, seed=5)
    assert loaders.splits == [split]
    for loader, part, size in ((loaders.lower, split.lower, 8), (loaders.upper, split.upper, 2)):
        assert [len(batch) for batch in loader] == [size] * (len(part) // size)
        assert sorted(order(loader)) == list(part)


def test_orders_of_the_levels_are_not_the_same_permutation() -> None:
    halves = SplitLoaders(rows(), settings(split_ratio=0.5), collate=list)
    (split,) = halves.splits
    lower, upper = (
        [part.index(row) for row in order(loader)]
        for part, loader in ((split.lower, halves.lower), (split.upper, halves.upper))
    )
    assert sorted(lower) == sorted(upper) and lower != upper


def test_order_depends_on_the_seed_alone() -> None:
    orders = []
    for seed in (0, 0, 1):
        torch.rand(3)
        orders.append(order(level_loader(rows(), settings(seed=seed), collate=list)))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(40))


def test_labels_that_are_numbers_are_stratified_by_size_and_those_of_tokens_are_not() -> None:
    for labels, strata in (([float(row) for row in range(40)],) * 2, ([[row, -100] for row in range(40)], [None] * 40)):
        labelled = [{"row": row, "labels": label} for row, label in enumerate(labels)]
        assert SplitLoaders(labelled, settings(), collate=list).splits == [split_rows(strata, ratio=0.8, seed=0)]


def test_a_part_follows_its_positions() -> None:
    part = Part("abcdef", (1, 3))
    assert (len(part), list(part), part[-1]) == (2, ["b", "d"], "d")
    part.positions = Split((0, 2, 4), (1, 3, 5), seed=0, ratio=0.5).upper
    assert list(part) == ["b", "d", "f"]


def grouped() -> list[dict[str, Any]]:
    """Ten groups of one to four rows, whose labels are token labels, which stratify nothing."""
    return [
        {"row": 10 * group + k, "labels": [1, 2], "group": group} for group in range(10) for k in range(1 + group % 4)
    ]


def test_rows_of_a_group_stay_in_one_part_and_the_split_is_of_groups() -> None:
    loaders = SplitLoaders(grouped(), settings(split_ratio=0.6), collate=list)
    (split,) = loaders.splits
    assert sorted((*split.lower, *split.upper)) == list(range(10))
    assert (len(split.lower), len(split.upper)) == (6, 4)
    for part, groups in ((loaders.lower_part, split.lower), (loaders.upper_part, split.upper)):
        assert [row["row"] for row in part] == [row["row"] for row in grouped() if row["group"] in groups]
    assert sorted(order(loaders.lower) + order(loaders.upper)) == sorted(row["row"] for row in grouped())


def test_groups_follow_a_refresh() -> None:
    loaders = SplitLoaders(grouped(), settings(refresh=1), collate=list)
    loaders._take(loaders._drawn())
    first, second = loaders.splits
    assert first.upper != second.upper
    assert {row["group"] for row in loaders.upper_part} == set(second.upper)


def test_a_given_d2_is_taken_whole_and_nothing_is_drawn() -> None:
    divided = DividedRows(rows(), [{"row": 100 + row, "labels": 0} for row in range(8)])
    loaders = SplitLoaders(divided, settings(), collate=list)
    assert loaders.splits == []
    assert sorted(order(loaders.lower)) == list(range(40))
    assert sorted(order(loaders.upper)) == list(range(100, 108))
    assert sorted(order(level_loader(divided, settings(), collate=list))) == [*range(40), *range(100, 108)]


def test_a_given_d2_is_not_drawn_anew() -> None:
    with pytest.raises(SettingsError, match="refresh is 2, but D2 is a set of its own; set refresh to 0"):
        SplitLoaders(DividedRows(rows(), rows()), settings(refresh=2), collate=list)


@pytest.mark.parametrize("single", [False, True])
def test_fit_hands_a_given_d2_on(fit_pair: Fit, single: bool) -> None:
    given = [{"row": 100 + row, "labels": row % 2} for row in range(8)]
    fitted = fit_pair(steps=24, single=single, upper_rows=given)
    below, above = (set(chain(*fitted.model.seen[level])) for level in ("lower", "upper"))
    d1, d2 = set(range(40)), set(range(100, 108))
    assert (below, above) == ((d1 | d2, set()) if single else (d1, d2))
    assert fitted.result.splits == ()
