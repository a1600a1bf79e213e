"""Gradients that lie in memory as their parameters do."""

from __future__ import annotations

import torch
from torch import Tensor


def laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return the gradient with the strides of its parameter.

    torch's fused optimizers (2.13, CPU) walk over both as they lie in memory and compare no strides, so that with
    others a parameter would be moved along a gradient whose entries have changed places. ``backward()`` lays gradients
    out like their parameters; ``torch.autograd.grad`` gives them as they come, transposed where a product was.

    Args:
        gradient: Of the shape of the parameter.
        parameter: The parameter.

    Example:
        >>> laid_out_like(torch.ones(3, 2).T, torch.zeros(2, 3)).stride()
        (3, 1)
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)
