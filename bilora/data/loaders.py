"""An order of rows in which a batch holds rows of nearly one length, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGroups(Sampler[int]):
    """A shuffled order in which neighbours have nearly the same number of tokens.

    transformers' own order (its ``group_by_length``): the rows are shuffled, cut into runs of fifty batches, and each
    run is sorted by length. Lengths are read at the start of each pass, since a refreshed split changes the rows.

    Args:
        rows: Encoded rows with ``input_ids``.
        batch_size: Rows a batch.
        generator: Draws the order of each pass.

    Example:
        >>> rows = [{"input_ids": [0] * length} for length in (1, 9, 2, 8)]
        >>> order = list(LengthGroups(rows, batch_size=4, generator=torch.Generator().manual_seed(0)))
        >>> [len(rows[index]["input_ids"]) for index in order]
        [9, 8, 2, 1]
    """

    def __init__(self, rows: Sequence[Any], *, batch_size: int, generator: torch.Generator) -> None:
        self.rows, self.batch_size, self.generator = rows, batch_size, generator

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        """Return the order of a new pass."""
        lengths = [len(row["input_ids"]) for row in self.rows]
        order: list[int] = get_length_grouped_indices(  # type: ignore[no-untyped-call]
            lengths, self.batch_size, generator=self.generator
        )
        yield from order


Collate = Callable[[Sequence[Any]], Any]
