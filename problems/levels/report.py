"""The numbers of one optimizer step of a level."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bilora.files.state import check_keys


@dataclass
class LevelReport:
    """Loss, its parts and the gradient norm of a level's latest optimizer step, means over its micro-batches.

    Tensors are gathered without waiting for the device and read together, once a step.

    Example:
        >>> report = LevelReport()
        >>> report.add(torch.tensor(1.0), {"penalty": torch.tensor(0.5)})
        >>> report.add(torch.tensor(3.0), {"penalty": torch.tensor(0.5)})
        >>> report.close(torch.tensor(4.0))
        >>> report.loss, report.parts, report.gradient_norm
        (2.0, {'penalty': 0.5}, 4.0)
    """

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
        self._gathered.append((loss, parts))

    def means(self) -> Tensor:
        """Return the means over the gathered micro-batches, ``(1 + parts,)``, the loss first; nothing is read yet."""
        return torch.stack(self._scalars())

    def _scalars(self) -> list[Tensor]:
        losses = [loss for loss, _ in self._gathered]
        names = self._names = tuple(dict.fromkeys(name for _, parts in self._gathered for name in parts))
        # A part that some micro-batches do not have is averaged over those that do.
        columns = [losses, *([parts[name] for _, parts in self._gathered if name in parts] for name in names)]
        # Half-precision losses are averaged in float32, float64 ones stay what they are.
        dtype, device = torch.promote_types(losses[0].dtype, torch.float32), losses[0].device
        self._gathered = []
        return [
            each[0].to(device, dtype) if len(each) == 1 else torch.stack(each).to(device, dtype).mean()
            for each in columns
        ]

    def close(self, gradient_norm: Tensor, means: Tensor | None = None) -> None:
        """Read means and the norm of the mean gradient; the one wait for the device.

        Args:
            gradient_norm: The norm.
            means: From :meth:`means`, or the same as averaged over processes; None takes the former.
        """
        scalars = self._scalars() if means is None else list(means)
        loss, *parts, norm = torch.stack([*scalars, gradient_norm.to(scalars[0])]).tolist()
        self.loss, self.gradient_norm = loss, norm
        self.parts = dict(zip(self._names, parts, strict=True))

    def loss_is_finite(self) -> bool:
        """Return whether the loss is a number."""
        return math.isfinite(self.loss)

    def is_finite(self) -> bool:
        """Return whether the loss and the gradient norm are numbers."""
        return self.loss_is_finite() and math.isfinite(self.gradient_norm)


KEYS = ("in_row", "total")


@dataclass
class SkippedSteps:
    """Counts the skipped steps of a level.

    Attributes:
        allowed: How many in a row may be skipped; with 0 the first one ends the run.
        in_row: Those since the last step that was taken.
        total: All of them.

    Example:
        >>> skipped = SkippedSteps(allowed=1)
        >>> [skipped.skip(), skipped.skip()], skipped.total
        ([True, False], 1)
        >>> skipped.took()
        >>> skipped.skip()
        True
    """

    allowed: int = 0
    in_row: int = 0
    total: int = 0

    def took(self) -> None:
        """Count a step that was taken: the row ends."""
        self.in_row = 0

    def skip(self) -> bool:
        """Count a step that is to be skipped; False, and nothing is counted, where it may not be."""
        if self.in_row >= self.allowed:
            return False
        self.in_row += 1
        self.total += 1
        return True

    def state(self) -> dict[str, Any]:
        """Return the counts; how many are allowed is a setting."""
        return {name: getattr(self, name) for name in KEYS}

    def load_state(self, state: Any, *, part: str) -> None:
        """Go on counting from there."""
        found = check_keys(state, KEYS, part=part)
        self.in_row, self.total = found["in_row"], found["total"]
