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
from bilora.tensors import Tensors, put, restored, zeros_like


class FusedAttentionNotice(UserWarning):
    """Attention runs on another kernel for the passes of exact products."""


@dataclass(frozen=True)
class ExactProducts:
    """Products by differentiating the gradient of the lower loss, on the batch and masks of the recorded step."""

    # One forward and one backward pass build the graph of the gradient; each product is one backward pass through it.
    # Exact up to rounding, also where the loss holds a detach, through which a finite difference sees. The price is the
    # memory for the graph, and layers need a second derivative.
    around: Around = "before_step"

    @property
    def needs(self) -> Needs:
        """The step, and the parameters before it where the derivatives are taken there."""
        return Needs(steps=1, parameters_before=self.around == "before_step")

    @contextlib.contextmanager
    def at(self, lower: LowerProblem, step: LowerStep) -> Iterator[ExactPoint]:
        """Build the graph of the gradient at the recorded step, and take products through it."""
        parameters = lower.trainable_parameters()
        with restored(parameters) as now, twice_differentiable_attention(lower.module):
            # Before the graph is built, and restored after the last product only: the graph holds the parameters.
            put(parameters, step.parameters(self.around, now=now))
            yield ExactPoint(lower, lower.replayed_gradient(parameters, step=step, create_graph=True))


class ExactPoint:
    """Products through the graph of one gradient."""

    def __init__(self, lower: LowerProblem, gradient: Tensors) -> None:
        self._lower, self._gradient = lower, gradient

    def hessian(self, vector: Tensors) -> Tensors:
        """Return ``d2_{V,V} L1 . x``."""
        return self._product(vector, self._lower.trainable_parameters())

    def mixed(self, vector: Tensors) -> Tensors:
        """Return ``d2_{E,V} L1 . x``."""
        return self._product(vector, self._lower.upper_parameters())

    def _product(self, vector: Tensors, inputs: Sequence[Tensor]) -> Tensors:
        # A loss that is linear in a parameter has a gradient without a graph there, and a second derivative of 0.
        pairs = [(g, x) for g, x in zip(self._gradient, vector, strict=True) if g.requires_grad]
        if not pairs:
            return self._lower.processes.averaged(zeros_like(inputs))
        gradients, vectors = zip(*pairs, strict=True)
        # d(g . x) / d inputs with x held fixed; retained, because a solver takes many products through one graph.
        parts = torch.autograd.grad(gradients, inputs, grad_outputs=vectors, retain_graph=True, allow_unused=True)
        product = [torch.zeros_like(x) if part is None else part for part, x in zip(parts, inputs, strict=True)]
        # Averaged only now: an average of the gradient over processes would have no graph.
        return self._lower.processes.averaged(product)


@contextlib.contextmanager
def twice_differentiable_attention(module: nn.Module) -> Iterator[None]:
    """Run the block with attention on PyTorch's math kernel, which has a second derivative; say so once."""
    configs = (getattr(submodule, "config", None) for submodule in module.modules())
    names = {str(getattr(config, "_attn_implementation", None)) for config in configs}
    flash = sorted(name for name in names if name.startswith("flash"))
    # A flash-attention package is called directly and cannot be switched.
    if flash:
        raise SettingsError(
            f"products 'exact' differentiate twice, and attention {flash[0]!r} has no second derivative; load the "
            "model with attn_implementation='eager' or 'sdpa', or use products: finite_difference"
        )
    if "sdpa" in names:
        warnings.warn(
            "products 'exact' differentiate twice: for these passes attention runs on PyTorch's math kernel instead of "
            "a fused one. Where the fused kernel draws dropout masks of its own (CUDA), load the model with "
            "attn_implementation='eager' so that the masks are the lower step's",
            FusedAttentionNotice,
            stacklevel=2,
        )
    with sdpa_kernel(SDPBackend.MATH):
        yield
