"""Errors of exhausted memory, in terms of settings that the user can change."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bilora.errors import ResourceError


class OutOfMemory(ResourceError, MemoryError):
    """A pass of a level did not fit into memory."""

    def __init__(self, message: str, *, section: str) -> None:
        super().__init__(message)
        self.section = section


@contextmanager
def explaining_out_of_memory(
    level: str, what: str, batch: Callable[[], Any], *, section: str | None = None
) -> Iterator[None]:
    """Run a pass; where memory is too small, say for which pass of which level and which batch, and what to lower."""
    try:
        yield
    except ResourceError:
        raise  # explained already, by the pass inside
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size, length = _shape(batch())
        section = section or level
        raise OutOfMemory(
            f"out of memory in {what}: batch size {size}, length {length}, level {level!r}. Halve {section}.batch_size "
            f"and double {section}.accumulation (--on-out-of-memory halve does so), or lower max_length",
            section=section,
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is exhausted."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On a CPU torch raises a plain RuntimeError: "DefaultCPUAllocator: can't allocate memory: you tried to ...".
    words = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in words or "out of memory" in words)


def _shape(batch: Any) -> tuple[str, str]:
    # The rows, and the tokens per row, of a batch, as far as its tensors show them.
    tensors = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else [batch]
    shapes = [tuple(tensor.shape) for tensor in tensors if isinstance(tensor, Tensor) and tensor.dim()]
    if not shapes:
        return "unknown", "unknown"
    longest = max((shape[1] for shape in shapes if len(shape) > 1), default=None)
    return str(shapes[0][0]), "unknown" if longest is None else str(longest)
