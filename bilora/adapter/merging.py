"""Which layers can be adapted, and how an update is added to the base weight and taken out again."""

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D


def quantization_of(layer: nn.Module, name: str, **quantization: Any) -> QuantizationBackend | None:
    """Return PEFT's access to the weight of a quantised layer, ``None`` for a plain one; refuse every other layer."""
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


class MergingLayer(BaseTunerLayer):
    """The part of a tuner layer that merges; the subclass says which adapters it holds and what each adds."""

    def held_adapters(self) -> list[str]:
        """Return the names of all adapters in this layer."""
        raise NotImplementedError

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return the update of an adapter, in the layout of the base weight."""
        raise NotImplementedError

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of adapters to the base weight."""
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.held_adapters():
                self._add_to_base(adapter, sign=1, check=safe_merge)
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take all merged updates out of the base weight again, up to rounding."""
        if not self.merged:
            warnings.warn("no adapter is merged, so there is nothing to take out", stacklevel=2)
        while self.merged_adapters:
            self._add_to_base(self.merged_adapters.pop(), sign=-1, check=False)

    @torch.no_grad()
    def _add_to_base(self, adapter: str, *, sign: int, check: bool) -> None:
        weight = self.get_base_weight()
        delta = self.get_delta_weight(adapter).to(weight.device)
        # Summed in float32 and rounded once, also for a base in bfloat16.
        merged = (weight + sign * delta).to(weight.dtype)
        if check and not bool(merged.isfinite().all()):
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken: base weight and "
                "update do not add up to finite numbers; take a checkpoint from before training diverged"
            )
        if self.quantization_backend is not None:
            warnings.warn(
                f"the merged weight is rounded to {self.quantization_backend.backend_name} again, which "
                "changes outputs; merge into the unquantised base model for the exact result",
                stacklevel=4,
            )
        self.set_base_weight(merged)
