"""Second-derivative products by finite differences of first-order gradients."""

from __future__ import annotations

import contextlib
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

HALF = (torch.float16, torch.bfloat16)


@contextmanager
def in_float32(module: nn.Module, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Run the block with those of ``parameters`` that are in half precision held as float32 copies.

    A displacement of 0.01 over all the parameters of a level is lost in the rounding of bfloat16. Modules that own
    such a parameter get their input in float32 and give their output in the type it had; what they compute with
    frozen half-precision neighbours stays as it is. Afterwards the parameters are the very tensors they were.

    Args:
        module: The model.
        parameters: Any; those in float32 or float64 are left alone.

    Example:
        >>> layer = nn.Linear(2, 2).to(torch.bfloat16)
        >>> with in_float32(layer, list(layer.parameters())):
        ...     layer.weight.dtype, layer(torch.ones(1, 2, dtype=torch.bfloat16)).dtype
        (torch.float32, torch.bfloat16)
        >>> layer.weight.dtype
        torch.bfloat16
    """
    half = {id(each): each for each in parameters if each.dtype in HALF}
    if not half:
        yield
        return
    held = [(each, each.data) for each in half.values()]
    with ExitStack() as hooks:
        for owner in module.modules():
            if any(id(each) in half for each in owner.parameters(recurse=False)):
                dtype = next(each.dtype for each in owner.parameters(recurse=False) if id(each) in half)
                hooks.callback(owner.register_forward_pre_hook(_widen, with_kwargs=True).remove)
                hooks.callback(owner.register_forward_hook(lambda *call, dtype=dtype: _cast(call[-1], dtype)).remove)
        try:
            for parameter, data in held:
                parameter.data = data.float()
            yield
        finally:
            for parameter, data in held:
                parameter.data = data


def is_half(parameters: Sequence[Tensor]) -> bool:
    """Return whether any of the parameters is in half precision.

    Example:
        >>> is_half([torch.ones(1)]), is_half([torch.ones(1, dtype=torch.float16)])
        (False, True)
    """
    return any(each.dtype in HALF for each in parameters)


def _widen(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    wide = torch.float32
    return tuple(_cast(each, wide) for each in inputs), {name: _cast(each, wide) for name, each in named.items()}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


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
        put(self._lower.trainable_parameters(), displaced)
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
