"""The optimizer that every level gets here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def adamw(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """Return torch's fused AdamW: one call a step for all the small tensors of an adapter, on CPU, CUDA and MPS alike.

    Args:
        parameters: The level's parameters, or param groups of them.
        learning_rate: Learning rate of every group that has none of its own.
        weight_decay: Decoupled weight decay of every group that has none of its own.

    Example:
        >>> weight = nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> _ = adamw([weight], learning_rate=0.1).step()
        >>> round(weight.item(), 6)
        0.9
    """
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
