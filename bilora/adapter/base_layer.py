"""Which layers of a base model can be adapted, and how the weight of a quantised one is reached."""

from __future__ import annotations

from typing import Any

from peft.utils import resolve_quantization_backend
from peft.utils.quantization_utils import QuantizationBackend
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D


def quantization_of(layer: nn.Module, name: str, **quantization: Any) -> QuantizationBackend | None:
    """Return PEFT's access to the weight of a quantised layer; ``None`` for a plain one.

    Args:
        layer: The layer of the base model.
        name: Its full name, for the error text.
        **quantization: What ``peft.utils.get_quantization_kwargs`` gives for the model.

    Raises:
        TypeError: The layer is of a type that cannot be adapted.

    Example:
        >>> quantization_of(nn.Linear(2, 2), "query") is None
        True
        >>> quantization_of(nn.Embedding(2, 2), "words")
        Traceback (most recent call last):
            ...
        TypeError: layer 'words' is of type torch.nn.modules.sparse.Embedding, which cannot be adapted; ...
    """
    backend: QuantizationBackend | None = resolve_quantization_backend(layer, **quantization)
    # The output projection of nn.MultiheadAttention is a Linear by type only: its forward is never called.
    plain = isinstance(layer, (nn.Linear, Conv1D)) and not isinstance(layer, NonDynamicallyQuantizableLinear)
    if plain or (backend is not None and backend.layer_type == "linear"):
        return backend
    kind = type(layer)
    raise TypeError(
        f"layer {name!r} is of type {kind.__module__}.{kind.__qualname__}, which cannot be adapted; "
        "supported: torch.nn.Linear, transformers' Conv1D and the quantised linear layers that PEFT knows; "
        "leave it out with target_modules or exclude_modules"
    )
