"""The processes that train together, and what they tell each other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bilora.aliases import Tensors
from bilora.errors import ProcessesError
from bilora.processes.shares import Share

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
