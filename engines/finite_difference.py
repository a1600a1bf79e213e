"""The mixed product d2_{E,V} L1 . w by finite differences of first-order gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from bilora.aliases import Tensors
from bilora.engines.vectors import difference, norm, place, restored, zeros_like
from bilora.errors import DivergedError, SettingsError
from bilora.problems.lower import LowerProblem
from bilora.problems.lower_step import Needs

Scheme = Literal["central", "forward"]
Around = Literal["before_step", "after_step"]


@dataclass(frozen=True)
class FiniteDifference:
    """Mixed products by a finite difference along w (DARTS, arXiv 1806.09055, eq. 8).

    With ``eps = radius / |w|`` and g(V) = d_E L1(V, E) on the batch and masks of the recorded lower step::

        central:  (g(V + eps w) - g(V - eps w)) / (2 eps)     error O(eps^2), two forward-backward passes
        forward:  (g(V + eps w) - g(V)) / eps                 error O(eps),   one: the step itself yields g(V)

    Only first derivatives are taken, so fused attention kernels and gradient checkpointing work.

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
        return Needs(
            step=True,
            parameters_before=self.around == "before_step",
            upper_gradient=self.scheme == "forward",
        )

    def mixed_product(self, direction: Tensors, lower: LowerProblem) -> Tensors:
        """Return ``d2_{E,V} L1 . w`` for ``direction`` = w; the lower level is afterwards as it was, bit for bit.

        Args:
            direction: w, one tensor a lower parameter.
            lower: The lower level with its recorded step.

        Returns:
            One tensor an upper parameter; zeros for a zero direction.

        Raises:
            DivergedError: The direction is not finite; nothing has been moved.
        """
        upper = lower.upper_parameters()
        length = norm(direction)
        if not length < float("inf"):
            raise DivergedError(f"the direction of a finite difference has norm {length}; no parameter was moved")
        if length == 0.0:
            return zeros_like(upper)
        _refuse_half_precision(lower)
        step_size = self.radius / length
        with restored(lower.trainable_parameters()) as now:
            base = lower.recorded_step().parameters_before if self.around == "before_step" else now
            assert base is not None  # asked for in `needs`
            ahead = _gradient_at(lower, base, direction, step_size)
            if self.scheme == "forward":
                here = lower.recorded_step().upper_gradient
                assert here is not None  # asked for in `needs`
                return difference(ahead, here, over=step_size)
            behind = _gradient_at(lower, base, direction, -step_size)
            return difference(ahead, behind, over=2 * step_size)


def _gradient_at(lower: LowerProblem, base: Tensors, direction: Tensors, step_size: float) -> Tensors:
    place(lower.trainable_parameters(), torch._foreach_add(list(base), list(direction), alpha=step_size))
    return lower.replayed_gradient(lower.upper_parameters())


def _refuse_half_precision(lower: LowerProblem) -> None:
    for name, parameter in lower.named_level_parameters().items():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise SettingsError(
                f"lower parameter {name!r} is {parameter.dtype}: a finite difference is lost in its rounding; "
                "keep trainable parameters in float32 (a frozen base may stay as it is) and set precision: bf16"
            )
