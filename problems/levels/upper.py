"""The upper level: it trains on D2 through the lower level's answer."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bilora.errors import DivergedError, SettingsError
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.problems.levels.level import Level, share_gradients
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Needs
from bilora.tensors import Tensors, gradient_norm


class UpperProblem(Level):
    """The upper level of a bi-level problem.

    It minimises ``L2(V*(E), E) = loss(D2) + penalty(E)`` in its own parameters E. Its gradient is the direct
    part plus the implicit term of ``hypergradient``, which the engine sets.

    Attributes:
        direct_norm: Norm of the direct gradient d_E L2 at the latest upper step.
        implicit_norm: Norm of the implicit term at the latest upper step.
    """

    hypergradient: Hypergradient | None = None
    direct_norm: float = math.nan
    implicit_norm: float = math.nan
    # The error of the step that is being made, where it may be skipped.
    _diverged: DivergedError | None = None
    # Direct gradients, v and losses, summed over the micro-batches so far.
    _sums: Tensors = ()

    @property
    def needs(self) -> Needs:
        """What the lower level has to remember for :meth:`implicit_term`: the needs of the hypergradient."""
        return self._hypergradient().needs

    def step_normal(self, global_step: Any = None) -> None:
        """Take all micro-batches of a step, at the same answer of the lower level."""
        # Betty takes one per unroll: half the batch and twice the accumulation would be half the steps.
        ready: list[bool] = list(self.ready)
        for _ in range(self.gas):
            self.ready: list[bool] = list(ready)
            super().step_normal(global_step=global_step)

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return how L2 depends on E through the lower level's answer, with ``vector`` = v; a tensor per parameter."""
        # A level whose parameters act on the lower steps directly, and not through the lower loss, overrides this and
        # adds their term.
        return self._hypergradient().implicit_term(vector, lower)

    def backward(self, loss: Tensor, params: Sequence[nn.Parameter], *betty: Any, **flags: Any) -> None:
        """Add the hypergradient to ``.grad``: a backward pass per micro-batch, then one implicit term for them all."""
        # Betty walks the graph twice (and so needs retain_graph), and takes the approximation from the lower level's
        # config.
        below = self.lower_level().trainable_parameters()
        # One pass for the direct gradient and v, which share all of the graph of L2.
        gradients = self.unscaled(self.scaled_gradients(loss, [*params, *below]), [*params, *below])
        parts = (*gradients, loss.detach())
        first = (self._count - 1) % self.gas == 0
        self._sums = parts if first else tuple(a + b for a, b in zip(self._sums, parts, strict=True))
        if self._count % self.gas:
            return
        self._diverged = None
        try:
            self._add_hypergradient(params)
        except DivergedError as error:
            if self.skipped.allowed == 0:
                raise
            # Raised or counted in optimizer_step.
            self._diverged = error
            self.direct_norm = self.implicit_norm = math.nan
            self._mark(params)
        finally:
            self._sums = ()

    def _add_hypergradient(self, params: Sequence[nn.Parameter]) -> None:
        # All processes together: every product is taken along the same v, and all see the same overflow.
        *shared, mean_loss = self._means()
        direct, vector = tuple(shared[: len(params)]), tuple(shared[len(params) :])
        # v comes first: no parameter may be displaced along a direction that is not finite.
        if not self._is_finite(mean_loss, vector):
            # optimizer_step lowers the loss scale and tries again.
            self._mark(params)
            return
        # Of the mean v, once: an approximation need not be linear in v.
        implicit = self.implicit_term(vector, self.lower_level())
        norms = torch.stack([gradient_norm(direct), gradient_norm(implicit)])
        self.direct_norm, self.implicit_norm = norms.tolist()
        # Scaled again, because optimizer_step unscales whatever stands in .grad.
        scale = 1.0 if self.scaler is None else self.scaler.get_scale()
        # dL2/dE = d_E L2 - d2_{E,V} L1 . w; the minus is in the implicit term.
        sums = [(d + i) * scale for d, i in zip(direct, implicit, strict=True)]
        # The implicit term may come in float32 for an E in bfloat16, and torch takes no gradient of another type.
        self.set_grads(params, [gradient.to(E.dtype) for gradient, E in zip(sums, params, strict=True)])

    def _means(self) -> Tensors:
        """Return the means over the terms of the step's micro-batches, in all processes."""
        unit, terms = self.step_terms[0], sum(self.step_terms)
        if self.processes.count == 1:
            return self._sums if len(self.step_terms) == 1 else tuple(each * (unit / terms) for each in self._sums)
        counted = torch.tensor([terms], device=self._sums[0].device)
        *shared, mean = self.processes.averaged([*(each * unit for each in self._sums), counted])
        return tuple(each / mean.item() for each in shared)

    def _average_step(self) -> None:
        # It is the hypergradient of the means already.
        pass

    def _share_step(self, means: Tensor, terms: float) -> Tensor:
        # The same in all processes, where the reported means alone differ.
        return share_gradients(self.trainable_parameters(), means, (), self.processes, mean_terms=terms).means

    def _mark(self, params: Sequence[nn.Parameter]) -> None:
        # By an infinite ``.grad`` optimizer_step sees that there is no hypergradient.
        self.set_grads(params, [torch.full_like(parameter, math.inf) for parameter in params])

    def _is_overflow(self) -> bool:
        return self._diverged is None and super()._is_overflow()

    def _not_finite(self) -> DivergedError:
        return super()._not_finite() if self._diverged is None else self._diverged

    def lower_level(self) -> LowerProblem:
        """Return the level below, of which there is exactly one."""
        (lower,) = self.children
        if not isinstance(lower, LowerProblem):
            raise SettingsError(f"the level below {self.name!r} is a {type(lower).__name__}; it must be a LowerProblem")
        return lower

    def _hypergradient(self) -> Hypergradient:
        if self.hypergradient is None:
            raise SettingsError(f"level {self.name!r} has no hypergradient; run it in a BilevelEngine, which sets it")
        return self.hypergradient

    def _is_finite(self, loss: Tensor, vector: Tensors) -> bool:
        # Read together, so that the device is waited for once.
        value, size = torch.stack([loss.detach().float(), gradient_norm(vector).float()]).tolist()
        if math.isfinite(value) and math.isfinite(size):
            return True
        # An overflow in fp16.
        if math.isfinite(value) and self.scaler is not None:
            return False
        raise DivergedError(
            f"level {self.name!r}, step {-(-self._count // self.gas)}: loss {value}, norm of its gradient in the lower "
            f"parameters {size}; no parameter was moved by this step. Lower the learning rates, or look at the batch"
        )
