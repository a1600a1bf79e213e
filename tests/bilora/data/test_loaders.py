"""Batches of rows of nearly one length: every row once, little padding, the same order for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bilora.data.loaders import LengthGroups, make_loader
from bilora.errors import DataError, SettingsError

ROWS = [{"input_ids": [0] * (1 + 37 * index % 50), "labels": index} for index in range(200)]


def _order(seed: int, rows: Any = ROWS) -> list[int]:
    return list(LengthGroups(rows, batch_size=8, generator=torch.Generator().manual_seed(seed)))


def _padding(order: list[int]) -> int:
    batches = [[len(ROWS[index]["input_ids"]) for index in order[start : start + 8]] for start in range(0, 200, 8)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)


def test_every_row_comes_once() -> None:
    assert sorted(_order(0)) == list(range(200))


def test_most_of_the_padding_goes() -> None:
    # Six batches are sorted together here: with 200 rows there are no runs of fifty.
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    assert _padding(_order(0)) < 0.3 * _padding(shuffled)


def test_the_seed_decides_and_each_pass_differs() -> None:
    groups = LengthGroups(ROWS, batch_size=8, generator=torch.Generator().manual_seed(3))
    first, second = list(groups), list(groups)
    assert first == _order(3)
    assert first != second


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


def test_the_loader_takes_them_without_moving_the_global_random_state() -> None:
    state = torch.get_rng_state()
    collate = lambda rows: {"labels": torch.tensor([row["labels"] for row in rows])}  # noqa: E731
    orders = [
        torch.cat([batch["labels"] for batch in make_loader(ROWS, batch_size=8, seed=3, collate=collate, **grouped)])
        for grouped in ({"group_by_length": True}, {"group_by_length": True}, {})
    ]
    assert torch.equal(orders[0], orders[1])
    assert _padding(orders[0].tolist()) < 0.3 * _padding(orders[2].tolist())
    assert torch.equal(state, torch.get_rng_state())


def test_it_is_refused_where_nothing_is_shuffled() -> None:
    with pytest.raises(SettingsError, match="shuffle=True"):
        make_loader(ROWS, batch_size=8, seed=0, collate=dict, shuffle=False, group_by_length=True)  # type: ignore[arg-type]


# ---- loaders --------------------------------------------------------------------------------------


def as_tensor(rows: Any) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor([row["labels"] for row in rows])}


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"labels": each} for each in range(count)]


def order(loader: Any) -> list[int]:
    return [label for batch in loader for label in batch["labels"].tolist()]


def test_the_same_seed_gives_the_same_order_and_each_pass_another() -> None:
    first, second, third = (make_loader(numbered(40), batch_size=4, seed=seed, collate=as_tensor) for seed in (7, 7, 8))
    passes = [order(first), order(first)]
    torch.manual_seed(1)  # what happens elsewhere has no say
    assert [order(second), order(second)] == passes
    assert passes[0] != passes[1] and order(third) != passes[0]
    assert all(sorted(each) == list(range(40)) for each in passes)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_global_random_state_is_left_alone(shuffle: bool) -> None:
    loader = make_loader(numbered(10), batch_size=4, seed=0, collate=as_tensor, shuffle=shuffle)
    before = torch.get_rng_state()
    order(loader), order(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_keeps_the_order_and_the_last_rows() -> None:
    loader = make_loader(numbered(10), batch_size=4, seed=0, collate=as_tensor, shuffle=False)
    assert order(loader) == order(loader) == list(range(10))
    dropped = make_loader(numbered(10), batch_size=4, seed=0, collate=as_tensor, drop_last=True)
    assert len(order(dropped)) == 8 and len(dropped) == 2


@pytest.mark.parametrize("settings", [{}, {"shuffle": False, "drop_last": True}])
def test_fewer_rows_than_a_batch(settings: dict[str, Any]) -> None:
    make_loader(numbered(8), batch_size=8, seed=0, collate=as_tensor, **settings)
    with pytest.raises(DataError, match="the upper part has 7 rows, fewer than a batch of 8; give more rows"):
        make_loader(numbered(7), batch_size=8, seed=0, collate=as_tensor, part="upper", **settings)


def test_a_short_validation_set_is_one_batch_and_an_empty_one_is_refused() -> None:
    assert order(make_loader(numbered(3), batch_size=8, seed=0, collate=as_tensor, shuffle=False)) == [0, 1, 2]
    with pytest.raises(DataError, match="the validation part has 0 rows"):
        make_loader([], batch_size=8, seed=0, collate=as_tensor, shuffle=False, part="validation")


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_rows(size: int) -> None:
    with pytest.raises(SettingsError, match=f"batch_size is {size}; it must be at least 1"):
        make_loader(numbered(3), batch_size=size, seed=0, collate=as_tensor)
