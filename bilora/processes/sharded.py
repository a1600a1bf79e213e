"""Whether a model is cut up among processes."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FSDPModule


def is_sharded(model: nn.Module) -> bool:
    """Return whether parameters of the model are cut up among processes.

    Example:
        >>> is_sharded(nn.Linear(2, 2))
        False
    """
    return any(isinstance(each, FSDPModule) for each in model.modules())
