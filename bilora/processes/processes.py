"""The processes that train together: which part of the rows each takes, and what they tell each other."""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from bilora.errors import ProcessesError
from bilora.tensors import Tensors


@dataclass(frozen=True)
class Share:
    """The part of every batch that a process takes: the one of number ``rank``, from 0, of ``count`` parts."""

    rank: int = 0
    count: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether one process takes everything."""
        return self.count == 1


class SharedBatches(Sampler[list[int]]):
    """One process's parts of the batches of an order that all draw alike, ``batch_size`` rows per process in each."""

    def __init__(self, order: Sampler[int] | range, *, batch_size: int, share: Share) -> None:
        self.order, self.batch_size, self.share = order, batch_size, share
        # How many processes read each row of the part that was yielded last.
        self.readers = 1

    def __len__(self) -> int:
        assert isinstance(self.order, Sized)  # samplers of rows that are counted
        return -(-len(self.order) // (self.batch_size * self.share.count))

    def __iter__(self) -> Iterator[list[int]]:
        positions = iter(self.order)
        while batch := list(itertools.islice(positions, self.batch_size * self.share.count)):
            yield self._part(batch)

    def _part(self, batch: list[int]) -> list[int]:
        rank, count = self.share.rank, self.share.count
        rows, left = divmod(len(batch), count)
        self.readers = 1
        if rows:
            # Of the last, smaller batch the first processes may have a row more: a step weighs the parts by their rows.
            start = rank * rows + min(rank, left)
            return batch[start : start + rows + (rank < left)]
        # Fewer rows than processes: some are read by several, each equally often, and counts as often less.
        rows = left // math.gcd(left, count)
        self.readers = rows * count // left
        return [batch[(rank * rows + row) % left] for row in range(rows)]


Result = TypeVar("Result")
Batch = TypeVar("Batch")


class Processes:
    """The processes of a run, each with a copy of the model and its part of every batch; as it stands, one alone."""

    # All processes call every method, in the same order: each is a message that waits for all of them.
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The part of every batch that this process takes."""
        return Share(self.rank, self.count)

    def averaged(self, tensors: Sequence[Tensor]) -> Tensors:
        """Return the mean over the processes of each tensor, without a graph if there are several processes."""
        # Without weights: who averages means of different numbers of rows multiplies them by these numbers before.
        return tuple(tensors)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up in any process."""
        return flag

    def gathered(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank."""
        return [value]

    def first_only(self, work: Callable[[], Result]) -> Result:
        """Do the work in the first process alone, and return its result, or raise its error, in all of them."""
        return work()

    @contextmanager
    def entered_by_first(self, context: AbstractContextManager[Result]) -> Iterator[Result]:
        """Enter a context, such as a lock, in the first process alone, and give all of them what it yields."""
        # The stack leaves it in the first process only, where alone it was entered.
        with ExitStack() as held:
            yield self.first_only(lambda: held.enter_context(context))

    def check_equal(self, what: str, value: Any) -> None:
        """Refuse values that differ between the processes."""
        first, *others = self.gathered(value)
        odd = [str(rank) for rank, other in enumerate(others, start=1) if other != first]
        if odd:
            raise ProcessesError(
                f"{what} of process {', '.join(odd)} differ from those of process 0; run the same command on all of "
                "them, and seed the making of the model and the reading of the rows alike"
            )

    def fork_random_state(self, seed: int, *step: int) -> None:
        """Seed the generators of each process differently, once everything that must be equal has been built."""
        if self.count == 1 and not step:  # one process goes on as if there were no processes at all
            return
        # Numbers that are no other run's seed; NumPy takes 32 bits.
        forked = int(np.random.SeedSequence([seed, self.rank, *step]).generate_state(1)[0])
        random.seed(forked)
        np.random.seed(forked)
        torch.manual_seed(forked)


ONE_PROCESS = Processes()


def taken_in_turn(batches: Iterable[Batch], work: Callable[[Batch], Result], processes: Processes) -> Iterator[Result]:
    """Yield the result of ``work`` for every batch, in order, in every process; they take batches in turn."""
    waiting = iter(batches)
    while turn := list(itertools.islice(waiting, processes.count)):
        # Without a batch in the last turn a process works on the last one too: a model that is sharded over the
        # processes answers only when all of them ask.
        batch = turn[min(processes.rank, len(turn) - 1)]
        yield from processes.gathered(work(batch))[: len(turn)]
