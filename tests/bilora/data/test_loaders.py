"""Batches of rows of nearly one length: every row once, little padding, the same order for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bilora.data.loaders import LengthGroups, make_loader
from bilora.errors import SettingsError

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
