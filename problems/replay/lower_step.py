"""The record of a lower step, so that a hypergradient can come back to it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bilora.problems.replay.random_state import RandomState
from bilora.tensors import Tensors


@dataclass(frozen=True)
class OptimizerSnapshot:
    """One parameter's side of an optimizer, copied before a step."""

    optimizer: str
    parameter: Tensor
    group: dict[str, Any]
    state: dict[str, Any]

    @property
    def steps_taken(self) -> int:
        """Steps that the state counts."""
        # torch keeps the count in a tensor of its state, and makes the state at the first step.
        return int(self.state.get("step", 0))

    def moment(self, name: str) -> Tensor:
        """Return a moment of the state, zero before the first step."""
        moment = self.state.get(name)
        return torch.zeros_like(self.parameter) if moment is None else moment


def take_snapshot(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> tuple[OptimizerSnapshot, ...]:
    """Return one snapshot per parameter, in the order of ``parameters``; tensors are copies."""
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    snapshots = []
    for parameter in parameters:
        # Copies: the step changes the moments in place.
        moments = optimizer.state.get(parameter, {}).items()
        state = {name: x.detach().clone() if isinstance(x, Tensor) else x for name, x in moments if x is not None}
        group = {name: value for name, value in groups[id(parameter)].items() if name != "params"}
        snapshots.append(OptimizerSnapshot(type(optimizer).__name__, parameter.detach().clone(), group, state))
    return tuple(snapshots)


Around = Literal["before_step", "after_step"]
"""At which lower parameters a derivative is taken: those of the gradient, or those the step arrived at."""


@dataclass(frozen=True)
class Needs:
    """The record that a hypergradient approximation needs of the last lower steps before an upper one.

    Attributes:
        steps: How many of them; each with its micro-batches and the random states they were run under.
        parameters_before: A copy of the lower parameters at which a step took its gradient.
        lower_gradient: That gradient, before clipping.
        upper_gradient: The gradient of the lower loss in the upper parameters at that point, which the
            lower step's own backward pass yields without another pass.
        optimizer: The optimizer's settings and state of each parameter before the step.

    Example:
        >>> Needs(steps=1).joined(Needs(steps=2, optimizer=True)).steps
        2
    """

    steps: int = 0
    parameters_before: bool = False
    lower_gradient: bool = False
    upper_gradient: bool = False
    optimizer: bool = False

    def joined(self, other: Needs) -> Needs:
        """Return the needs that satisfy both."""
        # The larger number of steps, and of two flags their "or".
        return Needs(
            **{field.name: max(getattr(self, field.name), getattr(other, field.name)) for field in fields(Needs)}
        )


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of a lower step: its batch, and the random state that its dropout masks were drawn from."""

    batch: Any
    random_state: RandomState


@dataclass
class LowerStep:
    """One of the last lower steps before an upper one; attributes that were not needed are None or empty.

    Attributes:
        micro_batches: All the micro-batches whose gradients the step accumulated.
        parameters_before: Lower parameters before the step.
        lower_gradient: d_V L1 there, mean over the micro-batches, before clipping.
        upper_gradient: d_E L1 there, mean over the micro-batches.
        optimizer: The optimizer's settings and state of each lower parameter before the step.
        clip: The factor that clipping put on the gradient; 1 where it did not clip.
        taken: Whether the optimizer stepped; False where fp16 skipped the step, or where it was not finite.
        skipped: Whether the step was not finite, so that there is nothing to come back to.
        learning_rates: The learning rate with which the step moved each lower parameter.
    """

    micro_batches: list[MicroBatch] = field(default_factory=list)
    parameters_before: Tensors | None = None
    lower_gradient: Tensors | None = None
    upper_gradient: Tensors | None = None
    optimizer: tuple[OptimizerSnapshot, ...] = ()
    clip: float = 1.0
    taken: bool = True
    skipped: bool = False
    learning_rates: tuple[float, ...] = ()

    def parameters(self, around: Around, *, now: Tensors) -> Tensors:
        """Return the lower parameters to differentiate at; ``now`` are those that the step arrived at."""
        if around == "after_step":
            return now
        # Not undone from the step itself: with Adam, clipping and rounding that would not come back bit for bit.
        if self.parameters_before is None:
            raise RuntimeError("the step was recorded without its parameters; ask for them in 'needs'")
        return self.parameters_before

    def add_gradients(self, lower: Tensors | None, upper: Tensors | None) -> None:
        """Add one micro-batch's share of the gradients that are needed."""
        self.lower_gradient = _sum(self.lower_gradient, lower)
        self.upper_gradient = _sum(self.upper_gradient, upper)

    def gradients(self) -> Tensors:
        """Return all recorded gradients, the lower ones first."""
        return (*(self.lower_gradient or ()), *(self.upper_gradient or ()))

    def put_gradients(self, gradients: Tensors) -> None:
        """Replace the gradients that :meth:`gradients` returned."""
        # In the order of gradients(): the lower ones first.
        below = len(self.lower_gradient or ())
        self.lower_gradient = None if self.lower_gradient is None else gradients[:below]
        self.upper_gradient = None if self.upper_gradient is None else gradients[below:]


def _sum(total: Tensors | None, more: Tensors | None) -> Tensors | None:
    return more if total is None or more is None else tuple(a + b for a, b in zip(total, more, strict=True))
