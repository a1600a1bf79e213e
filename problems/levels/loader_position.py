"""A data loader, how far it has been read, and how to come back to that position."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from bilora.errors import CheckpointError
from bilora.files.state import check_keys


class LoaderPosition:
    """The position in a loader: the state of its generator when it was opened, and the batches read since."""

    # Made right before the loader is opened, which moves the generator, and anew each time.
    def __init__(self, loader: Any, *, level: str) -> None:
        self.loader = loader
        self.level = level
        self.read = 0
        self.generator: Tensor | None = None
        if isinstance(loader, DataLoader) and loader.generator is not None:
            self.generator = loader.generator.get_state()

    def state(self) -> dict[str, Any]:
        """Return the position; refuse a loader whose order cannot be repeated."""
        shuffled = isinstance(self.loader, DataLoader) and isinstance(self.loader.sampler, RandomSampler)
        if shuffled and self.generator is None:
            raise CheckpointError(
                f"the data loader of level {self.level!r} shuffles by the global random state, so its order cannot be "
                "taken up again; give it generator=torch.Generator().manual_seed(...)"
            )
        return {"read": self.read, "generator": self.generator}

    def reopened(self, state: Any) -> Iterator[Any]:
        """Return an iterator that goes on where ``state`` was taken."""
        position = check_keys(state, ("read", "generator"), part=f"{self.level}.loaders")
        if (position["generator"] is None) != (self.generator is None):
            raise CheckpointError(f"checkpoint does not fit: {self.level}.loaders: generator is missing")
        if isinstance(self.loader, DataLoader) and self.loader.generator is not None:
            self.loader.generator.set_state(position["generator"])
            self.generator = position["generator"]
        iterator: Iterator[Any] = iter(self.loader)
        # Read and dropped, not skipped by index: whatever the batches before draw must be drawn again.
        for _ in range(position["read"]):
            if next(iterator, None) is None:
                raise CheckpointError(
                    f"checkpoint does not fit: {self.level}.loaders: {position['read']} batches had been read, and the "
                    "loader has fewer"
                )
            self.read += 1
        return iterator
