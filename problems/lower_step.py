"""What is remembered of a lower step, so that a hypergradient can come back to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bilora.aliases import Tensors
from bilora.problems.random_state import RandomState


@dataclass(frozen=True)
class Needs:
    """What a hypergradient approximation wants remembered of the last lower step before an upper one.

    Attributes:
        step: The micro-batches with the random states under which they were run.
        parameters_before: A copy of the lower parameters at which the step took its gradient.
        upper_gradient: The gradient of the lower loss in the upper parameters at that point, which the
            lower step's own backward pass yields without another pass.

    Example:
        >>> Needs().step
        False
    """

    step: bool = False
    parameters_before: bool = False
    upper_gradient: bool = False


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of a lower step: its batch, and the random state its masks were drawn from."""

    batch: Any
    random_state: RandomState


@dataclass
class LowerStep:
    """The last lower step before an upper one.

    Attributes:
        micro_batches: All the micro-batches whose gradients the step accumulated.
        parameters_before: Lower parameters before the step, where they are needed.
        upper_gradient: d_E L1 at ``parameters_before``, mean over the micro-batches, where it is needed.
        learning_rates: The learning rate with which the step moved each lower parameter.
    """

    micro_batches: list[MicroBatch] = field(default_factory=list)
    parameters_before: Tensors | None = None
    upper_gradient: Tensors | None = None
    learning_rates: tuple[float, ...] = ()

    def add_upper_gradient(self, gradient: Tensors) -> None:
        """Add one micro-batch's share of the upper gradient."""
        held = self.upper_gradient
        self.upper_gradient = gradient if held is None else _sum(held, gradient)


def _sum(left: Tensors, right: Tensors) -> Tensors:
    added: list[Tensor] = [a + b for a, b in zip(left, right, strict=True)]
    return tuple(added)
