"""Buffers that forward passes change, such as the statistics of a batch norm: noted, put back, and saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bilora.errors import CheckpointError


class ChangedBuffers:
    """The buffers of a module that have changed since this object was made, or in a pass that was noted."""

    # Only the changed ones: a quantised base keeps its weights in buffers, and nobody wants a copy of those at every
    # upper step and in every checkpoint.

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.names: frozenset[str] = frozenset()
        self._owners: dict[str, nn.Module] | None = None
        self._before = self._versions()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Run a forward pass and note what it changes."""
        self._before = self._versions()
        yield
        if self._owners is None:
            # Asked once: walking over all the modules of a transformer takes longer than the engine's other work of a
            # step. After a pass, since lazy modules register their buffers in the first one.
            self._owners = {name: owner for name, owner in self.module.named_modules() if owner._buffers}
        self._note()

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Run a forward pass and put back what it changed, also when it raises."""
        if not self.names:
            yield
            return
        buffers = dict(self.module.named_buffers())
        saved = {name: (buffers[name], buffers[name].clone()) for name in self.names if name in buffers}
        try:
            yield
        finally:
            for name, (buffer, value) in saved.items():
                owner, _, key = name.rpartition(".")
                # A forward pass may also have put another tensor in its place.
                setattr(self.module.get_submodule(owner), key, buffer)
                with torch.no_grad():
                    buffer.copy_(value)

    def state(self) -> dict[str, Any]:
        """Return the changed buffers by name."""
        self._owners = None
        self._note()
        return {name: buffer for name, buffer in self.module.named_buffers() if name in self.names}

    def load_state(self, state: Any) -> None:
        """Copy the buffers' values back; refuse a buffer that the model does not have, or of another shape."""
        buffers = dict(self.module.named_buffers())
        for name, value in state.items():
            if name not in buffers or buffers[name].shape != value.shape:
                raise CheckpointError(f"checkpoint does not fit: buffers: {name} is left over, or of another shape")
        with torch.no_grad():
            for name, value in state.items():
                buffers[name].copy_(value)
        self.names |= set(state)

    def _note(self) -> None:
        before, buffers = self._before, list(self._buffers())
        owners = {
            name.rpartition(".")[0]
            for name, buffer in buffers
            if name not in before or before[name][0] is not buffer or before[name][1] != buffer._version
        }
        # All buffers of such a module: batch norm's kernel moves its statistics without a version count.
        self.names |= {name for name, _ in buffers if name.rpartition(".")[0] in owners}

    def _versions(self) -> dict[str, tuple[Tensor, int]]:
        return {name: (buffer, buffer._version) for name, buffer in self._buffers()}

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        if self._owners is None:
            yield from self.module.named_buffers()
            return
        for prefix, owner in self._owners.items():
            for name, buffer in owner._buffers.items():
                if buffer is not None:
                    yield (f"{prefix}.{name}" if prefix else name), buffer
