"""Buffers that a forward pass changes, such as the statistics of a batch norm, saved around a replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bilora.errors import CheckpointError

Held = dict[str, tuple[Tensor, int]]


class ChangingBuffers:
    """Notes which buffers of a module a forward pass changes, and puts just those back.

    Not all: a quantised base keeps its weights in buffers, which nobody wants to copy at every upper step. Which
    modules have buffers at all is asked once, after the first pass that is noted.

    Args:
        module: The model.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> buffers = ChangingBuffers(norm)
        >>> with buffers.noted():
        ...     _ = norm(torch.randn(4, 2))
        >>> before = norm.running_mean.clone()
        >>> with buffers.unchanged():
        ...     _ = norm(torch.randn(4, 2))
        >>> bool((norm.running_mean == before).all())
        True
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.names: frozenset[str] = frozenset()
        self._owners: dict[str, nn.Module] | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Run a forward pass and note what it changes."""
        held = {name: (each, each._version) for name, each in self._buffers()}
        yield
        if self._owners is None:
            # Walking over all the modules of a transformer takes longer than the engine's other work of a step.
            self._owners = {name: each for name, each in self.module.named_modules() if each._buffers}
        changed = {
            name.rpartition(".")[0]
            for name, each in self._buffers()
            if name not in held or held[name][0] is not each or held[name][1] != each._version
        }
        # All buffers of such a module: batch norm's kernel moves its statistics without a version count.
        self.names |= {name for name, _ in self._buffers() if name.rpartition(".")[0] in changed}

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        if self._owners is None:
            yield from self.module.named_buffers()
            return
        for prefix, owner in self._owners.items():
            for name, each in owner._buffers.items():
                if each is not None:
                    yield (f"{prefix}.{name}" if prefix else name), each

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


class ChangedBuffers:
    """The state of a model beside its parameters: those buffers that are not what they were at the start.

    Not all buffers: a quantised base keeps its weights in them. Make it before the first step.

    Args:
        module: The model.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> changed = ChangedBuffers(norm)
        >>> sorted(changed.state())
        []
        >>> _ = norm(torch.randn(4, 2))
        >>> sorted(changed.state())
        ['num_batches_tracked', 'running_mean', 'running_var']
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._at_start = {name: (each, each._version) for name, each in module.named_buffers()}
        self._since_earlier: set[str] = set()

    def state(self) -> dict[str, Any]:
        """Return the changed buffers by name."""
        start = self._at_start
        buffers = dict(self.module.named_buffers())
        owners = {
            name.rpartition(".")[0]
            for name, each in buffers.items()
            if name not in start or start[name][0] is not each or start[name][1] != each._version
        }
        # All buffers of such a module: batch norm's kernel moves its statistics without a version count.
        return {
            name: each
            for name, each in buffers.items()
            if name.rpartition(".")[0] in owners or name in self._since_earlier
        }

    def load_state(self, state: Any) -> None:
        """Copy the buffers' values back.

        Raises:
            CheckpointError: The model has no such buffer, or one of another shape.
        """
        buffers = dict(self.module.named_buffers())
        for name, value in state.items():
            if name not in buffers or buffers[name].shape != value.shape:
                raise CheckpointError(f"checkpoint does not fit: buffers: {name} is left over, or of another shape")
        with torch.no_grad():
            for name, value in state.items():
                buffers[name].copy_(value)
        self._since_earlier |= set(state)
