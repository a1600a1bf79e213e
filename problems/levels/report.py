"""The numbers of one optimizer step of a level, and the count of steps that were skipped."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bilora.files.state import check_keys


@dataclass
class LevelReport:
    """Loss, its parts and the gradient norm of a level's latest optimizer step, means over its micro-batches."""

    loss: float = math.nan
    parts: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = math.nan
    clip: float = 1.0
    taken: bool = True
    skipped: bool = False
    learning_rates: tuple[float, ...] = ()
    _names: tuple[str, ...] = ()
    _gathered: list[tuple[Tensor, dict[str, Tensor]]] = field(default_factory=list)

    def add(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        """Gather one micro-batch."""
        # Tensors: they are read together in close(), so that the device is waited for once per step.
        self._gathered.append((loss, parts))

    def means(self) -> Tensor:
        """Return the means over the gathered micro-batches, ``(1 + parts,)``, the loss first; nothing is read yet."""
        return torch.stack(self._scalars())

    def _scalars(self) -> list[Tensor]:
        losses = [loss for loss, _ in self._gathered]
        names = self._names = tuple(dict.fromkeys(name for _, parts in self._gathered for name in parts))
        # A part that some micro-batches lack is averaged over the others.
        columns = [losses, *([parts[name] for _, parts in self._gathered if name in parts] for name in names)]
        # Half-precision losses are averaged in float32, float64 ones keep their digits.
        dtype, device = torch.promote_types(losses[0].dtype, torch.float32), losses[0].device
        self._gathered = []
        return [
            column[0].to(device, dtype) if len(column) == 1 else torch.stack(column).to(device, dtype).mean()
            for column in columns
        ]

    def close(self, gradient_norm: Tensor, means: Tensor | None = None) -> None:
        """Read the norm of the mean gradient and the means, those of this process for None: one wait for the device."""
        scalars = self._scalars() if means is None else list(means)
        loss, *parts, norm = torch.stack([*scalars, gradient_norm.to(scalars[0])]).tolist()
        self.loss, self.gradient_norm = loss, norm
        self.parts = dict(zip(self._names, parts, strict=True))

    def is_finite(self) -> bool:
        """Return whether the loss and the gradient norm are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


@dataclass
class SkippedSteps:
    """The count of the skipped steps of a level."""

    allowed: int = 0  # in a row; with 0 the first one ends the run
    in_row: int = 0  # since the last step that was taken
    total: int = 0

    def skip(self) -> bool:
        """Count a step to be skipped; return False and count nothing where it may not be skipped."""
        if self.in_row >= self.allowed:
            return False
        self.in_row += 1
        self.total += 1
        return True

    def state(self) -> dict[str, Any]:
        """Return the counts."""
        return {"in_row": self.in_row, "total": self.total}

    def load_state(self, state: Any, *, part: str) -> None:
        """Go on counting from the counts of :meth:`state`."""
        counts = check_keys(state, ("in_row", "total"), part=part)
        self.in_row, self.total = counts["in_row"], counts["total"]
