"""Batches that several processes take in turn, when no gradient is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from bilora.processes.alone import Processes

Batch = TypeVar("Batch")
Found = TypeVar("Found")


def taken_in_turn(batches: Iterable[Batch], work: Callable[[Batch], Found], processes: Processes) -> Iterator[Found]:
    """Yield what ``work`` finds for every batch, in order and in every process; each process works on its own ones.

    A process without a batch in the last round works on the round's last one, as a model that is sharded over the
    processes answers only when all of them ask.

    Args:
        batches: The same in every process.
        work: What is done with a batch; its answers are sent to the other processes.
        processes: Those that share the work.

    Example:
        >>> list(taken_in_turn([1, 2, 3], lambda each: 10 * each, Processes()))
        [10, 20, 30]
    """
    waiting = iter(batches)
    while batch_of_each := list(itertools.islice(waiting, processes.count)):
        own = batch_of_each[min(processes.rank, len(batch_of_each) - 1)]
        yield from processes.gathered(work(own))[: len(batch_of_each)]
