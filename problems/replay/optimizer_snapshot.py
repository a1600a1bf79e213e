"""What an optimizer knew of a parameter just before a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerSnapshot:
    """One parameter's side of an optimizer, copied before a step.

    Attributes:
        optimizer: Name of the optimizer's class.
        parameter: The parameter's value.
        group: Settings of its param group.
        state: Its state; empty before its first step.
    """

    optimizer: str
    parameter: Tensor
    group: dict[str, Any]
    state: dict[str, Any]

    @property
    def steps_taken(self) -> int:
        """Steps that the state counts."""
        return int(self.state.get("step", 0))

    def moment(self, name: str) -> Tensor:
        """Return a moment of the state, zero before the first step."""
        found = self.state.get(name)
        return torch.zeros_like(self.parameter) if found is None else found


def take_snapshot(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> tuple[OptimizerSnapshot, ...]:
    """Return a snapshot a parameter, in the order of ``parameters``; tensors are copies."""
    groups = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    return tuple(_snapshot(optimizer, each, groups[id(each)]) for each in parameters)


def _snapshot(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, group: dict[str, Any]) -> OptimizerSnapshot:
    state = {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    settings = {name: value for name, value in group.items() if name != "params"}
    return OptimizerSnapshot(type(optimizer).__name__, parameter.detach().clone(), settings, state)
