"""Rows shared among several processes: each batch of all of them is cut into equal parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized
from dataclasses import dataclass

from torch.utils.data import Sampler


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process takes.

    Args:
        rank: The number of the process, from 0.
        count: The number of processes.

    Example:
        >>> Share().is_whole, Share(1, 2).is_whole
        (True, False)
    """

    rank: int = 0
    count: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether one process takes everything."""
        return self.count == 1


class SharedOrder(Sampler[int]):
    """One process's part of an order that all processes draw alike.

    The order is cut into batches of ``batch_size`` rows a process, and each batch into equal parts, one a process, so
    that no row is read twice and the mean over the parts is the mean over the batch. Of the last, smaller batch of a
    pass every process takes as many rows as the others; the rows left over, fewer than there are processes, are not
    read in this pass.

    Args:
        order: Positions of rows; it must give the same ones in every process.
        batch_size: Rows a batch of one process.
        share: Which process this is.

    Example:
        >>> [list(SharedOrder(range(9), batch_size=2, share=Share(rank, 2))) for rank in (0, 1)]
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """

    def __init__(self, order: Sampler[int] | range, *, batch_size: int, share: Share) -> None:
        self.order, self.batch_size, self.share = order, batch_size, share

    def __len__(self) -> int:
        """Return the number of rows that this process reads in a pass."""
        assert isinstance(self.order, Sized)  # samplers of rows that are counted
        full, left = divmod(len(self.order), self.batch_size * self.share.count)
        return full * self.batch_size + left // self.share.count

    def __iter__(self) -> Iterator[int]:
        """Return this process's positions of a new pass."""
        rank, count = self.share.rank, self.share.count
        positions = iter(self.order)
        while batch := list(itertools.islice(positions, self.batch_size * count)):
            part = len(batch) // count
            yield from batch[rank * part : (rank + 1) * part]
