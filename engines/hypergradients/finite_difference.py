"""Second-derivative products by finite differences of first-order gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bilora.errors import DivergedError, SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Around, LowerStep, Needs
from bilora.tensors import Tensors, difference, norm, put, restored, zeros_like

Scheme = Literal["central", "forward"]

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class FiniteDifference:
    """Products by a finite difference along x (DARTS, arXiv 1806.09055, eq. 8), on batch and masks of a lower step."""

    # With eps = radius / |x|, and g(V) the gradient of L1 in V for a Hessian product or in E for a mixed one:
    #   central:  (g(V + eps x) - g(V - eps x)) / (2 eps)     error O(eps^2), two forward-backward passes
    #   forward:  (g(V + eps x) - g(V)) / eps                 error O(eps),   one: the step itself yields g(V)
    # First derivatives alone, so that fused attention kernels and gradient checkpointing work.
    scheme: Scheme = "central"
    radius: float = 0.01
    around: Around = "before_step"

    def __post_init__(self) -> None:
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
        """The step; its parameters, where they are displaced; and g(V), where it is not taken again."""
        before, forward = self.around == "before_step", self.scheme == "forward"
        return Needs(steps=1, parameters_before=before, upper_gradient=forward, lower_gradient=forward)

    @contextmanager
    def at(self, lower: LowerProblem, step: LowerStep) -> Iterator[DisplacedPoint]:
        """Open the point of the recorded step; on leaving, the lower parameters are as they were, bit for bit."""
        below, above = lower.trainable_parameters(), lower.upper_parameters()
        if self.scheme == "forward":
            refuse_half_precision(lower)
        with in_float32(lower.module, [*below, *above]), restored(below) as now:
            base = step.parameters(self.around, now=now)
            yield DisplacedPoint(self, lower, step, base=tuple(a.to(b.dtype) for a, b in zip(base, now, strict=True)))


class DisplacedPoint:
    """Products around one point."""

    def __init__(self, settings: FiniteDifference, lower: LowerProblem, step: LowerStep, *, base: Tensors) -> None:
        self._settings, self._lower, self._step, self._base = settings, lower, step, base

    def hessian(self, vector: Tensors) -> Tensors:
        """Return ``d2_{V,V} L1 . x``."""
        return self._product(vector, self._lower.trainable_parameters(), undisplaced=self._step.lower_gradient)

    def mixed(self, vector: Tensors) -> Tensors:
        """Return ``d2_{E,V} L1 . x``."""
        return self._product(vector, self._lower.upper_parameters(), undisplaced=self._step.upper_gradient)

    def _product(self, vector: Tensors, inputs: Sequence[Tensor], *, undisplaced: Tensors | None) -> Tensors:
        length = norm(vector)
        # Written so that nan is refused too.
        if not length < float("inf"):
            raise DivergedError(f"the direction of a finite difference has norm {length}; no parameter was stepped")
        # Not a division by it: the product with zero is zero.
        if length == 0.0:
            return zeros_like(inputs)
        # The same displacement for every x, however long: too short drowns in rounding, too long leaves the quadratic.
        eps = self._settings.radius / length
        ahead = self._gradient(vector, eps, inputs)
        if self._settings.scheme == "forward":
            assert undisplaced is not None  # asked for in `needs`
            return difference(ahead, undisplaced, over=eps)
        return difference(ahead, self._gradient(vector, -eps, inputs), over=2 * eps)

    def _gradient(self, vector: Tensors, eps: float, inputs: Sequence[Tensor]) -> Tensors:
        # From the saved base each time: V + eps x - 2 eps x would carry the rounding of the first displacement.
        displaced = torch._foreach_add(list(self._base), list(vector), alpha=eps)
        put(self._lower.trainable_parameters(), displaced)
        return self._lower.replayed_gradient(inputs, step=self._step)


def refuse_half_precision(lower: LowerProblem) -> None:
    """Refuse lower parameters in half precision for forward differences."""
    # The gradient of the step, which they subtract, is rounded to that type, and the displaced one differs by little.
    for name, parameter in lower.named_level_parameters().items():
        if parameter.dtype in HALF:
            raise SettingsError(
                f"lower parameter {name!r} is {parameter.dtype}: the gradient that 'forward' re-uses is rounded to it; "
                "use finite_difference: central, which works on float32 copies, or keep trainable parameters in "
                "float32 (a frozen base may stay as it is) and set precision: bf16"
            )


@contextmanager
def in_float32(module: nn.Module, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Run the block with the half-precision ones of ``parameters`` held as float32 copies."""
    # A displacement of 0.01 over all the parameters of a level is lost in the rounding of bfloat16.
    half = {id(parameter): parameter for parameter in parameters if parameter.dtype in HALF}
    if not half:
        yield
        return
    held = [(parameter, parameter.data) for parameter in half.values()]
    with ExitStack() as hooks:
        # Modules that own such a parameter get their input in float32 and give their output in its old type, so that
        # their frozen half-precision neighbours compute as they did.
        for owner in module.modules():
            dtypes = [parameter.dtype for parameter in owner.parameters(recurse=False) if id(parameter) in half]
            if dtypes:
                hooks.callback(owner.register_forward_pre_hook(_widen, with_kwargs=True).remove)
                narrow = dtypes[0]
                # As a default: a closure would see the type of the last module only.
                hooks.callback(owner.register_forward_hook(lambda *call, dtype=narrow: _cast(call[-1], dtype)).remove)
        try:
            # .data, so that optimizers and graphs keep the same parameter objects.
            for parameter, data in held:
                parameter.data = data.float()
            yield
        finally:
            for parameter, data in held:
                parameter.data = data


def _widen(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    named = {name: _cast(value, torch.float32) for name, value in named.items()}
    return tuple(_cast(value, torch.float32) for value in inputs), named


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
