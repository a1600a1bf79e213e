"""Buffers of a model that a run has changed, such as the statistics of a batch norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bilora.errors import CheckpointError


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
