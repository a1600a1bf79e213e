"""Rows shared among processes: the whole of every batch as one process would read it, in parts that weigh alike."""

from collections import Counter
from typing import Any

import pytest
import torch

from bilora.data.loaders import make_loader
from bilora.errors import DataError, SettingsError
from bilora.processes.processes import Share, SharedBatches


def positions(rows: list[Any]) -> list[int]:
    return [row["row"] for row in rows]


def batches(share: Share, *, rows: int, batch_size: int, **options: Any) -> list[list[int]]:
    encoded = [{"row": row, "input_ids": [0] * (1 + row % 7)} for row in range(rows)]
    loader = make_loader(encoded, batch_size=batch_size, seed=4, collate=positions, share=share, **options)  # type: ignore[arg-type]
    return [*loader, *loader]  # two passes, which differ  # type: ignore[list-item]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("rows", [24, 29])
def test_processes_together_read_the_batches_of_one(count: int, grouped: bool, rows: int) -> None:
    options = {"rows": rows, "group_by_length": grouped}
    shares = [batches(Share(rank, count), batch_size=12 // count, **options) for rank in range(count)]
    whole = batches(Share(), batch_size=12, **options)
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        assert [row for part in parts for row in part] == batch
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("count", range(2, 9))
@pytest.mark.parametrize("left", range(1, 8))
def test_every_row_of_a_last_batch_weighs_the_same(count: int, left: int) -> None:
    """Also where it has fewer rows than there are processes, of which none may be without a batch."""
    batch_size = 2
    rows = range(batch_size * count + left % (batch_size * count))
    shares = [list(SharedBatches(rows, batch_size=batch_size, share=Share(rank, count))) for rank in range(count)]
    *_, last = zip(*shares, strict=True)
    assert all(last)
    times = Counter(row for part in last for row in part)
    assert set(times) == set(rows[-(left % (batch_size * count)) or -batch_size * count :])
    assert len(set(times.values())) == 1


@pytest.mark.parametrize("rows", range(6, 14))
def test_length_is_that_of_a_pass(rows: int) -> None:
    parts = SharedBatches(range(rows), batch_size=2, share=Share(1, 3))
    assert len(parts) == len(list(parts))


def test_too_few_rows_for_all_processes_are_refused() -> None:
    with pytest.raises(DataError, match="has 7 rows, fewer than a batch of 4 in each of 2 processes"):
        batches(Share(0, 2), rows=7, batch_size=4)


@pytest.mark.parametrize("options", [{"shuffle": False}, {"drop_last": True}])
def test_a_part_of_the_rows_and_a_fixed_order_are_not_shared(options: dict[str, bool]) -> None:
    with pytest.raises(SettingsError, match="set shuffle=True and leave drop_last out"):
        batches(Share(0, 2), rows=8, batch_size=4, **options)


def test_one_process_reads_as_before() -> None:
    generator = torch.Generator().manual_seed(4)
    loader: Any = torch.utils.data.DataLoader(range(10), batch_size=4, shuffle=True, generator=generator)  # type: ignore[arg-type]
    assert batches(Share(), rows=10, batch_size=4)[:3] == [batch.tolist() for batch in loader]
