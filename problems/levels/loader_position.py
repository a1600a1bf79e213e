"""A data loader, how far it has been read, and how to come back to that place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from bilora.errors import CheckpointError
from bilora.files.state import check_keys


class LoaderPosition:
    """Where the reading of a loader is: the state of its generator when it was opened, and the batches read since.

    Make it right before the loader is opened, and anew each time.

    Args:
        loader: Any iterable of batches. One that shuffles must have a generator of its own.
        level: Name of the level that reads it, for error texts.

    Example:
        >>> position = LoaderPosition([1, 2, 3], level="lower")
        >>> position.step()
        >>> again = LoaderPosition([1, 2, 3], level="lower")
        >>> next(again.reopened(position.state()))
        2
    """

    def __init__(self, loader: Any, *, level: str) -> None:
        self.loader = loader
        self.level = level
        self.read = 0
        self.generator = self._generator_state()

    def step(self) -> None:
        """Note that a batch was read."""
        self.read += 1

    def state(self) -> dict[str, Any]:
        """Return the position.

        Raises:
            CheckpointError: The order of the loader cannot be repeated.
        """
        shuffled = isinstance(self.loader, DataLoader) and isinstance(self.loader.sampler, RandomSampler)
        if shuffled and self.generator is None:
            raise CheckpointError(
                f"the data loader of level {self.level!r} shuffles by the global random state, so its order cannot be "
                "taken up again; give it generator=torch.Generator().manual_seed(...)"
            )
        return {"read": self.read, "generator": self.generator}

    def reopened(self, state: Any) -> Iterator[Any]:
        """Return an iterator that goes on where ``state`` was taken; the batches before it are read and dropped.

        Raises:
            CheckpointError: The loader has fewer batches, or no generator where it had one.
        """
        found = check_keys(state, ("read", "generator"), part=f"{self.level}.loaders")
        if (found["generator"] is None) != (self.generator is None):
            raise CheckpointError(f"checkpoint does not fit: {self.level}.loaders: generator is missing")
        if isinstance(self.loader, DataLoader) and self.loader.generator is not None:
            self.loader.generator.set_state(found["generator"])
            self.generator = found["generator"]
        iterator: Iterator[Any] = iter(self.loader)
        for _ in range(found["read"]):
            if next(iterator, None) is None:
                raise CheckpointError(
                    f"checkpoint does not fit: {self.level}.loaders: {found['read']} batches had been read, and the "
                    "loader has fewer"
                )
            self.step()
        return iterator

    def _generator_state(self) -> Tensor | None:
        if isinstance(self.loader, DataLoader) and self.loader.generator is not None:
            state: Tensor = self.loader.generator.get_state()
            return state
        return None
