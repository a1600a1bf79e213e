"""Learned weight decays, one per group of lower parameter tensors, and how the upper loss depends on them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bilora.problems.levels.betty_problem import Companion
from bilora.tensors import Tensors


class WeightDecays(Companion):
    """``decay_g = min(exp(rho_g), cap)``, one per group of tensors; the ``rho`` are the upper parameters.

    Without ``groups``, which has the name of each tensor's group, every tensor is a group.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        start: float,
        cap: float,
        floor: float | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.floor, self.cap = floor, cap
        of_tensors = self.names if groups is None else groups
        self.members: dict[str, list[int]] = {}
        for tensor, group in enumerate(of_tensors):
            self.members.setdefault(group, []).append(tensor)
        self._group_of = [list(self.members).index(group) for group in of_tensors]
        # As logarithms a step changes every decay by a ratio, and none can become negative.
        self.log_decay = nn.Parameter(torch.full((len(self.members),), math.log(start)))
        self._read: tuple[int, list[float]] | None = None

    def values(self) -> list[float]:
        """Return the decay of each tensor as a number."""
        # Read from the device only after they have changed: every lower step asks, and reading waits for the device.
        version = self.log_decay._version
        if self._read is None or self._read[0] != version:
            decays = [min(decay, self.cap) for decay in self.log_decay.detach().exp().tolist()]
            self._read = version, [decays[group] for group in self._group_of]
        return self._read[1]

    def implicit_term(
        self, vector: Tensors, parameters: Tensors, *, learning_rates: tuple[float, ...], steps: int
    ) -> Tensor:
        """Return the sum of ``-lr_j k decay_j <theta_j, v_j>`` over the tensors j of each group."""
        # A decoupled decay (AdamW's) takes a parameter to theta' = (1 - lr decay_j) theta - step, where the step does
        # not depend on the decay: d theta' / d rho_j = -lr decay_j theta and d L2 / d rho_j = -lr decay_j <theta, v>
        # with v = d L2 / d theta'. That is one dot product per tensor, exact for one step of SGD or AdamW between two
        # upper steps. For k of them, k times the last step's term is near where a step moves the parameters by a small
        # part: it leaves out that theta was another one at each of the k steps, and the effect of a change at one step
        # on the gradients and decays of the later ones.
        products = torch.stack([(a * b).sum() for a, b in zip(parameters, vector, strict=True)])
        factors = [-rate * steps * decay for rate, decay in zip(learning_rates, self.values(), strict=True)]
        terms = products.to(self.log_decay) * self.log_decay.detach().new_tensor(factors)
        if len(self.members) == len(self.names):
            return terms
        return torch.stack([terms[tensors].sum() for tensors in self.members.values()])

    @torch.no_grad()
    def put_back_within_bounds(self) -> None:
        """Take every rho beyond floor or cap back to it, so that the next step away has an effect."""
        self.log_decay.clamp_(min=None if self.floor is None else math.log(self.floor), max=math.log(self.cap))

    def learned(self) -> dict[str, Any]:
        """Return the decays by the name of their tensor."""
        return {"weight_decays": dict(zip(self.names, self.values(), strict=True))}
