"""One learned weight decay for each lower parameter tensor, and how the upper loss depends on it."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bilora.problems.levels.betty_problem import Companion
from bilora.tensors import Tensors


class WeightDecays(Companion):
    """``decay_j = min(exp(rho_j), cap)``, one per lower parameter tensor; the ``rho`` are the upper parameters."""

    def __init__(self, names: Iterable[str], *, start: float, cap: float, shared: bool = False) -> None:
        super().__init__()
        self.names = list(names)
        self.cap = cap
        self.shared = shared
        # As logarithms a step changes every decay by a ratio, and none can become negative.
        self.log_decay = nn.Parameter(torch.full((1 if shared else len(self.names),), math.log(start)))
        self._read: tuple[int, list[float]] | None = None

    def values(self) -> list[float]:
        """Return the decay of each tensor as a number."""
        # Read from the device only after they have changed: every lower step asks, and reading waits for the device.
        version = self.log_decay._version
        if self._read is None or self._read[0] != version:
            decays = [min(decay, self.cap) for decay in self.log_decay.detach().exp().tolist()]
            self._read = version, decays * len(self.names) if self.shared else decays
        return self._read[1]

    def implicit_term(
        self, vector: Tensors, parameters: Tensors, *, learning_rates: tuple[float, ...], steps: int
    ) -> Tensor:
        """Return ``-lr_j k decay_j <theta_j, v_j>`` for every tensor j, or their sum where they share a decay."""
        # A decoupled decay (AdamW's) takes a parameter to theta' = (1 - lr decay_j) theta - step, where the step does
        # not depend on the decay: d theta' / d rho_j = -lr decay_j theta and d L2 / d rho_j = -lr decay_j <theta, v>
        # with v = d L2 / d theta'. That is one dot product per tensor, exact for one step of SGD or AdamW between two
        # upper steps. For k of them, k times the last step's term is near where a step moves the parameters by a small
        # part: it leaves out that theta was another one at each of the k steps, and the effect of a change at one step
        # on the gradients and decays of the later ones.
        products = torch.stack([(a * b).sum() for a, b in zip(parameters, vector, strict=True)])
        factors = [-rate * steps * decay for rate, decay in zip(learning_rates, self.values(), strict=True)]
        terms = products.to(self.log_decay) * self.log_decay.detach().new_tensor(factors)
        return terms.sum(0, keepdim=True) if self.shared else terms

    @torch.no_grad()
    def put_back_to_cap(self) -> None:
        """Take every rho beyond the cap back to it, so that the next step down has an effect."""
        self.log_decay.clamp_(max=math.log(self.cap))

    def learned(self) -> dict[str, Any]:
        """Return the decays by the name of their tensor."""
        return {"weight_decays": dict(zip(self.names, self.values(), strict=True))}
