"""The random state of every generator a forward pass may draw from, taken and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilora.errors import CheckpointError
from bilora.files.state import check_keys


@dataclass(frozen=True)
class RandomState:
    """States of Python's, NumPy's and torch's generators, and of one accelerator's."""

    device: torch.device
    python: tuple[Any, ...]
    numpy: Any
    torch_cpu: Tensor
    accelerator: Tensor | None

    @classmethod
    def take(cls, device: torch.device) -> RandomState:
        """Return a copy of the current states; ``device`` is where the model runs."""
        generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
        return cls(device, *generators, _accelerator_state(device))

    def put_back(self) -> None:
        """Set every generator to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.accelerator is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(self.accelerator, self.device)
        elif self.accelerator is not None:
            torch.mps.set_rng_state(self.accelerator)

    def to_tree(self) -> dict[str, Any]:
        """Return the states as a checkpoint can hold them."""
        version, numbers, gauss = self.python
        # A tensor: as a list, 625 numbers per recorded micro-batch would be most of a checkpoint's JSON.
        return {
            "python": {"version": version, "numbers": torch.tensor(numbers), "gauss": gauss},
            "numpy": self.numpy,
            "torch_cpu": self.torch_cpu,
            "accelerator": self.accelerator,
        }

    @classmethod
    def from_tree(cls, tree: Any, *, device: torch.device, part: str) -> RandomState:
        """Return the state of a :meth:`to_tree`; refuse one that is not whole, or from another kind of device."""
        states = check_keys(tree, ("python", "numpy", "torch_cpu", "accelerator"), part=part)
        python = check_keys(states["python"], ("version", "numbers", "gauss"), part=f"{part}: python")
        if (states["accelerator"] is None) != (_accelerator_state(device) is None):
            raise CheckpointError(
                f"checkpoint does not fit: {part} was taken on {'a CPU' if states['accelerator'] is None else 'a GPU'} "
                f"and this run is on {device}; resume on the device it began on"
            )
        numbers = python["version"], tuple(python["numbers"].tolist()), python["gauss"]
        return cls(device, numbers, states["numpy"], states["torch_cpu"], states["accelerator"])

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Run the block from this state; afterwards the generators are as they were before the block."""
        # A replay must not move the run's own random numbers, or a hypergradient would change the masks after it.
        outside = RandomState.take(self.device)
        try:
            self.put_back()
            yield
        finally:
            outside.put_back()


def _accelerator_state(device: torch.device) -> Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None
