"""Which layers can be adapted, and how an update is added to the base weight and taken out again."""

import warnings
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import resolve_quantization_backend
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D


def quantization_of(layer: nn.Module, name: str, **quantization: Any) -> QuantizationBackend | None:
    """Return PEFT's access to the weight of a quantised layer, ``None`` for a plain one; refuse every other layer."""
    try:
        backend: QuantizationBackend | None = resolve_quantization_backend(layer, **quantization)
    except ValueError as error:  # torchao's, without the recipe by which the weight is rounded again
        raise TypeError(
            f"layer {name!r} cannot be adapted: {error}; quantise by from_pretrained(..., quantization_config=...)"
        ) from error
    # The output projection of nn.MultiheadAttention is a Linear by type only: its forward is never called.
    plain = isinstance(layer, (nn.Linear, Conv1D)) and not isinstance(layer, NonDynamicallyQuantizableLinear)
    if backend is not None and backend.layer_type == "linear":
        return backend
    if plain:
        _refuse_quantised(layer, name)
        return None
    kind = type(layer)
    raise TypeError(
        f"layer {name!r} is of type {kind.__module__}.{kind.__qualname__}, which cannot be adapted; "
        "supported: torch.nn.Linear, transformers' Conv1D and the quantised linear layers that PEFT knows; "
        "leave it out with target_modules or exclude_modules"
    )


def _refuse_quantised(layer: nn.Module, name: str) -> None:
    """Refuse a linear layer whose weight is quantised in a way that PEFT does not know: a merge would spoil it."""
    weight: Any = layer.weight
    kind = type(weight)
    # Of torch itself are plain and sharded weights; quantisers bring classes of tensors, or keep numbers of one byte.
    if kind.__module__.partition(".")[0] == "torch" and weight.is_floating_point() and weight.itemsize > 1:
        return
    raise TypeError(
        f"layer {name!r} keeps its weight quantised, as {kind.__module__}.{kind.__qualname__} of {weight.dtype}, which "
        "PEFT knows no way to read or write; load the base model unquantised, or quantised by bitsandbytes or torchao "
        "with that package installed, or leave the layer out with target_modules or exclude_modules"
    )


def add_to_base(layer: BaseTunerLayer, adapter: str, update: Tensor, *, check: bool = False) -> None:
    """Add the update of an adapter, in the layout of the base weight, to the base weight of a layer."""
    weight = layer.get_base_weight()
    # Summed in float32 and rounded once, also for a base in bfloat16.
    merged = (weight + update.to(weight.device)).to(weight.dtype)
    if check and not bool(merged.isfinite().all()):
        raise ValueError(
            f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken: base weight and "
            "update do not add up to finite numbers; take a checkpoint from before training diverged"
        )
    if layer.quantization_backend is not None:
        warnings.warn(
            f"the merged weight is rounded to {layer.quantization_backend.backend_name} again, which "
            "changes outputs; merge into the unquantised base model for the exact result",
            stacklevel=4,  # whoever called merge, past its no_grad
        )
    layer.set_base_weight(merged)
