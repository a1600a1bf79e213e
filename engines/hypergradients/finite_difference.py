"""Second-derivative products by finite differences of first-order gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bilora.aliases import Tensors
from bilora.engines.hypergradients.float32_copies import in_float32, is_half
from bilora.engines.hypergradients.vectors import difference, norm, place, restored, zeros_like
from bilora.errors import DivergedError, SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Around, LowerStep, Needs

Scheme = Literal["central", "forward"]


@dataclass(frozen=True)
class FiniteDifference:
    """Products by a finite difference along x (DARTS, arXiv 1806.09055, eq. 8).

    With ``eps = radius / |x|`` and g(V) the gradient of the lower loss, in the lower parameters for a Hessian
    product or in the upper ones for a mixed one, on the batch and masks of the recorded lower step::

        central:  (g(V + eps x) - g(V - eps x)) / (2 eps)     error O(eps^2), two forward-backward passes
        forward:  (g(V + eps x) - g(V)) / eps                 error O(eps),   one: the step itself yields g(V)

    Only first derivatives are taken, so fused attention kernels and gradient checkpointing work. Parameters in half
    precision are displaced as float32 copies, in which a small step is not lost.

    Args:
        scheme: ``central`` or ``forward``.
        radius: Length of the displacement in parameter space.
        around: ``before_step`` displaces the parameters at which the lower step took its gradient (DARTS);
            ``after_step`` those it arrived at (Betty). ``forward`` can only do the former, as g(V) is known
            only there.

    Raises:
        SettingsError: A value is out of range, or ``forward`` is combined with ``after_step``.

    Example:
        >>> FiniteDifference(scheme="forward").needs.upper_gradient
        True
    """

    scheme: Scheme = "central"
    radius: float = 0.01
    around: Around = "before_step"

    def __post_init__(self) -> None:
        """Check the settings, all of them before any is told."""
        faults = []
        if self.scheme not in ("central", "forward"):
            faults.append(f"finite_difference is {self.scheme!r}; allowed: central, forward")
        if self.around not in ("before_step", "after_step"):
            faults.append(f"around is {self.around!r}; allowed: before_step, after_step")
        if not 0 < self.radius < float("inf"):
            faults.append(f"radius is {self.radius}; it must be positive and finite")
        if self.scheme == "forward" and self.around == "after_step":
            faults.append(
                "finite_difference 'forward' re-uses the gradient of the lower step, which was taken before it; "
                "use around: before_step, or finite_difference: central"
            )
        if faults:
            raise SettingsError("finite difference: " + "; ".join(faults))

    @property
    def needs(self) -> Needs:
        """What the lower step has to leave behind for these products."""
        forward = self.scheme == "forward"
        return Needs(
            steps=1,
            parameters_before=self.around == "before_step",
            upper_gradient=forward,
            lower_gradient=forward,
        )

    @contextlib.contextmanager
    def at(self, lower: LowerProblem, step: LowerStep) -> Iterator[DisplacedPoint]:
        """Open the point of the recorded step; on leaving, the lower parameters are as they were, bit for bit."""
        own, above = lower.trainable_parameters(), lower.upper_parameters()
        if self.scheme == "forward":
            refuse_half_precision(lower)
        with in_float32(lower.module, [*own, *above]), restored(own) as now:
            base = step.parameters(self.around, now=now)
            yield DisplacedPoint(self, lower, step, base=tuple(a.to(b.dtype) for a, b in zip(base, now, strict=True)))


class DisplacedPoint:
    """Products around one point."""

    def __init__(self, how: FiniteDifference, lower: LowerProblem, step: LowerStep, *, base: Tensors) -> None:
        self._how, self._lower, self._step, self._base = how, lower, step, base

    def hessian(self, vector: Tensors) -> Tensors:
        """Return ``d2_{V,V} L1 . x``."""
        return self._product(vector, self._lower.trainable_parameters(), known=self._step.lower_gradient)

    def mixed(self, vector: Tensors) -> Tensors:
        """Return ``d2_{E,V} L1 . x``."""
        return self._product(vector, self._lower.upper_parameters(), known=self._step.upper_gradient)

    def _product(self, vector: Tensors, inputs: Sequence[Tensor], *, known: Tensors | None) -> Tensors:
        length = norm(vector)
        if not length < float("inf"):
            raise DivergedError(f"the direction of a finite difference has norm {length}; no parameter was stepped")
        if length == 0.0:
            return zeros_like(inputs)
        step_size = self._how.radius / length
        ahead = self._gradient(vector, step_size, inputs)
        if self._how.scheme == "forward":
            assert known is not None  # asked for in `needs`
            return difference(ahead, known, over=step_size)
        behind = self._gradient(vector, -step_size, inputs)
        return difference(ahead, behind, over=2 * step_size)

    def _gradient(self, vector: Tensors, step_size: float, inputs: Sequence[Tensor]) -> Tensors:
        displaced = torch._foreach_add(list(self._base), list(vector), alpha=step_size)
        place(self._lower.trainable_parameters(), displaced)
        return self._lower.replayed_gradient(inputs, step=self._step)


def refuse_half_precision(lower: LowerProblem) -> None:
    """Refuse lower parameters in half precision for forward differences, which subtract a gradient rounded to it.

    Raises:
        SettingsError: With the parameter's name.
    """
    for name, parameter in lower.named_level_parameters().items():
        if is_half([parameter]):
            raise SettingsError(
                f"lower parameter {name!r} is {parameter.dtype}: the gradient that 'forward' re-uses is rounded to it; "
                "use finite_difference: central, which works on float32 copies, or keep trainable parameters in "
                "float32 (a frozen base may stay as it is) and set precision: bf16"
            )
