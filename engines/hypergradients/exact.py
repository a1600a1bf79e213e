"""Second-derivative products by double backward."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilora.errors import SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Around, LowerStep, Needs
from bilora.tensors import Tensors, put, restored


class FusedAttentionNotice(UserWarning):
    """Attention runs on another kernel for the passes of exact products."""


@dataclass(frozen=True)
class ExactProducts:
    """Products by differentiating the gradient of the lower loss, on the batch and masks of the recorded step.

    One forward and one backward pass build the graph of the gradient; each product is one backward pass
    through it. Exact up to rounding, also where the loss holds a ``detach``. Needs memory for that graph, and
    layers that have a second derivative.

    Args:
        around: Which lower parameters the derivatives are taken at.

    Example:
        >>> ExactProducts().needs.parameters_before
        True
    """

    around: Around = "before_step"

    @property
    def needs(self) -> Needs:
        """The step, and the parameters before it where the derivatives are taken there."""
        return Needs(steps=1, parameters_before=self.around == "before_step")

    @contextlib.contextmanager
    def at(self, lower: LowerProblem, step: LowerStep) -> Iterator[ExactPoint]:
        """Build the graph of the gradient at the recorded step, and take products through it.

        Raises:
            SettingsError: The model's attention is a kernel that has no second derivative and no substitute.
        """
        parameters = lower.trainable_parameters()
        with restored(parameters) as now, twice_differentiable_attention(lower.module):
            put(parameters, step.parameters(self.around, now=now))
            yield ExactPoint(lower, lower.replayed_gradient(parameters, step=step, create_graph=True))


class ExactPoint:
    """Products through the graph of one gradient."""

    def __init__(self, lower: LowerProblem, gradient: Tensors) -> None:
        self._processes = lower.processes
        self._below: Sequence[Tensor] = lower.trainable_parameters()
        self._above: Sequence[Tensor] = lower.upper_parameters()
        self._gradient = gradient

    def hessian(self, vector: Tensors) -> Tensors:
        """Return ``d2_{V,V} L1 . x``."""
        return self._processes.averaged(self._product(vector, self._below))

    def mixed(self, vector: Tensors) -> Tensors:
        """Return ``d2_{E,V} L1 . x``."""
        return self._processes.averaged(self._product(vector, self._above))

    def _product(self, vector: Tensors, inputs: Sequence[Tensor]) -> Tensors:
        """Return the product on the rows of this process."""
        # A loss that is linear in a parameter has a gradient without a graph there, and a second derivative of 0.
        pairs = [(g, x) for g, x in zip(self._gradient, vector, strict=True) if g.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(each) for each in inputs)
        gradients, vectors = zip(*pairs, strict=True)
        found = torch.autograd.grad(gradients, inputs, grad_outputs=vectors, retain_graph=True, allow_unused=True)
        return tuple(torch.zeros_like(i) if f is None else f for f, i in zip(found, inputs, strict=True))


@contextlib.contextmanager
def twice_differentiable_attention(module: nn.Module) -> Iterator[None]:
    """Run the block with attention on PyTorch's math kernel, which has a second derivative; say so once.

    Raises:
        SettingsError: The model calls a flash-attention package directly, which cannot be switched.
    """
    chosen = {implementation for each in module.modules() if (implementation := _attention_of(each)) is not None}
    flash = sorted(each for each in chosen if each.startswith("flash"))
    if flash:
        raise SettingsError(
            f"products 'exact' differentiate twice, and attention {flash[0]!r} has no second derivative; load the "
            "model with attn_implementation='eager' or 'sdpa', or use products: finite_difference"
        )
    if "sdpa" in chosen:
        warnings.warn(
            "products 'exact' differentiate twice: for these passes attention runs on PyTorch's math kernel instead of "
            "a fused one. Where the fused kernel draws dropout masks of its own (CUDA), load the model with "
            "attn_implementation='eager' so that the masks are the lower step's",
            FusedAttentionNotice,
            stacklevel=2,
        )
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _attention_of(module: nn.Module) -> str | None:
    config = getattr(module, "config", None)
    implementation = getattr(config, "_attn_implementation", None)
    return implementation if isinstance(implementation, str) else None
