"""Batches of any nested structure, moved to a device without touching the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def to_device(batch: Any, device: torch.device) -> Any:
    """Return ``batch`` with every tensor in it on ``device``; containers are new, so nothing changes in place.

    Mappings (``BatchEncoding`` among them) become plain dicts, named tuples and other tuples keep their
    type, and whatever is not a tensor or a container is passed on as it is.

    Args:
        batch: A tensor, or mappings, lists and tuples of them, to any depth.
        device: Where the model is.

    Returns:
        The same structure on the device.

    Example:
        >>> batch = {"x": torch.ones(2), "more": (torch.zeros(1), "text")}
        >>> moved = to_device(batch, torch.device("cpu"))
        >>> moved["more"][1], moved is batch
        ('text', False)
    """
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple):
        moved = [to_device(value, device) for value in batch]
        # A named tuple takes its fields one by one, a plain tuple takes an iterable.
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    if isinstance(batch, list):
        return [to_device(value, device) for value in batch]
    return batch
