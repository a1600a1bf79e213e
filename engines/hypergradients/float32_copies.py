"""Half-precision parameters held in float32 for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
