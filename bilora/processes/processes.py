"""The processes that train together, and what they tell each other."""

from __future__ import annotations

import itertools
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


Given = TypeVar("Given")


class Processes:
    """The processes of a run, each with a copy of the model and its own part of every batch.

    This class is the one process that runs alone: nothing has to be told to anybody. The engine hands the processes of
    a run to its levels. Every method is called by all processes, in the same order.

    Attributes:
        rank: The number of this process, from 0.
        count: The number of processes.

    Example:
        >>> alone = Processes()
        >>> alone.is_first, alone.any(False), alone.gathered("state")
        (True, False, ['state'])
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """Which part of every batch this process takes."""
        return Share(self.rank, self.count)

    def averaged(self, tensors: Sequence[Tensor]) -> Tensors:
        """Return the mean over the processes of each tensor; what is returned has no graph if there are several.

        Each process's batch has as many rows as the others', so means need no weights.

        Args:
            tensors: As many, with the same shapes, in every process.
        """
        return tuple(tensors)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up in any process."""
        return flag

    def gathered(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank; such as the random states that a checkpoint has to hold."""
        return [value]

    def first_only(self, work: Callable[[], Given]) -> Given:
        """Do the work in the first process alone, and return there and elsewhere what it gave, or raise its error."""
        return work()

    @contextmanager
    def entered_by_first(self, context: AbstractContextManager[Given]) -> Iterator[Given]:
        """Enter a context, such as a lock, in the first process alone, and give all of them what it gave."""
        with ExitStack() as held:
            yield self.first_only(lambda: held.enter_context(context))

    def check_equal(self, what: str, value: Any) -> None:
        """Refuse values that differ between the processes.

        Args:
            what: What they are, for the error.
            value: Anything that can be compared.

        Raises:
            ProcessesError: With the processes whose value is not the first one's.
        """
        first, *others = self.gathered(value)
        odd = [str(rank) for rank, other in enumerate(others, start=1) if other != first]
        if odd:
            raise ProcessesError(
                f"{what} of process {', '.join(odd)} differ from those of process 0; run the same command on all of "
                "them, and seed the making of the model and the reading of the rows alike"
            )

    def fork_random_state(self, seed: int, *place: int) -> None:
        """Seed every process's generators differently, once everything that must be equal has been made.

        Args:
            seed: Of the run.
            place: Where in the run, if not at its start; one process alone keeps its random state without it.
        """
        if self.count == 1 and not place:
            return
        # Numbers that are no other run's seed; NumPy takes 32 bits.
        own = int(np.random.SeedSequence([seed, self.rank, *place]).generate_state(1)[0])
        random.seed(own)
        np.random.seed(own)
        torch.manual_seed(own)


ONE_PROCESS = Processes()
"""A process alone."""


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
