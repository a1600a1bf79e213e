"""Batches of rows of nearly one length: every row once, little padding, the same order for the same seed."""

from typing import Any

import pytest
import torch

from bilora.data.loaders import LengthGroups, make_loader
from bilora.errors import DataError, SettingsError

ROWS = [{"input_ids": [0] * (1 + 37 * index % 50), "labels": index} for index in range(200)]


def padding(order: list[int]) -> int:
    batches = [[len(ROWS[index]["input_ids"]) for index in order[start : start + 8]] for start in range(0, 200, 8)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)


def test_lengths_are_those_of_the_rows_at_the_start_of_a_pass() -> None:
    rows = list(ROWS)
    generator = torch.Generator().manual_seed(0)
    groups = LengthGroups(rows, batch_size=8, generator=generator)
    list(groups)
    rows.reverse()
    state = generator.get_state()
    order = list(groups)
    generator.set_state(state)
    assert order == list(LengthGroups(rows, batch_size=8, generator=generator))
    generator.set_state(state)
    assert order != list(LengthGroups(ROWS, batch_size=8, generator=generator))


def test_groups_have_little_padding() -> None:
    grouped, mixed = (loader_of(ROWS, size=8, seed=3, group_by_length=groups) for groups in (True, False))
    # Six batches are sorted together here: with 200 rows there are no runs of fifty.
    assert padding(order(grouped)) < 0.3 * padding(order(mixed))
    with pytest.raises(SettingsError, match="shuffle=True"):
        loader_of(ROWS, size=8, shuffle=False, group_by_length=True)


def loader_of(rows: Any, *, size: int = 4, seed: int = 0, **settings: Any) -> Any:
    """Return a loader of rows, or of so many."""
    rows = [{"labels": number} for number in range(rows)] if isinstance(rows, int) else rows
    collate = lambda batch: {"labels": torch.tensor([row["labels"] for row in batch])}  # noqa: E731
    return make_loader(rows, batch_size=size, seed=seed, collate=collate, **settings)


def order(loader: Any) -> list[int]:
    return [label for batch in loader for label in batch["labels"].tolist()]


@pytest.mark.parametrize("grouped", [False, True])
def test_the_same_seed_gives_the_same_order_and_each_pass_another(grouped: bool) -> None:
    first, second, third = (loader_of(ROWS, size=8, seed=seed, group_by_length=grouped) for seed in (7, 7, 8))
    passes = [order(first), order(first)]
    torch.manual_seed(1)  # what happens elsewhere has no say
    state = torch.get_rng_state()
    assert [order(second), order(second)] == passes
    assert torch.equal(torch.get_rng_state(), state)
    assert passes[0] != passes[1] and order(third) != passes[0]
    assert all(sorted(rows) == list(range(200)) for rows in passes)


def test_validation_keeps_the_order_and_the_last_rows_and_no_loader_moves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    loader = loader_of(10, shuffle=False)
    assert order(loader) == order(loader) == list(range(10))
    dropped = loader_of(10, drop_last=True)
    assert len(order(dropped)) == 8 and len(dropped) == 2
    assert order(loader_of(3, size=8, shuffle=False)) == [0, 1, 2]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("settings", [{}, {"shuffle": False, "drop_last": True}])
def test_fewer_rows_than_a_batch(settings: dict[str, Any]) -> None:
    loader_of(8, size=8, **settings)
    with pytest.raises(DataError, match="the upper part has 7 rows, fewer than a batch of 8; give more rows"):
        loader_of(7, size=8, part="upper", **settings)


def test_sets_and_batches_of_no_row_are_refused() -> None:
    with pytest.raises(DataError, match="the validation part has 0 rows"):
        loader_of(0, size=8, shuffle=False, part="validation")
    for size in (0, -1):
        with pytest.raises(SettingsError, match=f"batch_size is {size}; it must be at least 1"):
            loader_of(3, size=size)
