"""A linear layer with BiLoRA adapters: W0 + (alpha / r) P diag(s) Q."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import quantization_extra_repr
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from bilora.adapter.config import BiloraConfig
from bilora.adapter.merging import add_to_base, quantization_of
from bilora.adapter.singular_values import Formulation, find_formulation, raw_start

# Squared lengths below this count as this: a direction of length zero stays zero instead of becoming NaN.
_SHORTEST = 1e-24


@dataclass(frozen=True)
class AdapterSettings:
    """The part of an adapter's config that every forward pass reads."""

    formulation: Formulation
    normalized: bool
    scale: float


class BiloraLinear(nn.Module, BaseTunerLayer):
    """A base layer, left as it is, whose output gets the updates of the active adapters added.

    Each adapter holds P ``(out, rank)``, Q ``(rank, in)`` and E ``(rank,)``, trainable and under the adapter's name; E
    stays in float32 whatever the dtype of the base model.

    Args:
        base_layer: An ``nn.Linear``, a ``Conv1D`` or a quantised linear layer, or another tuner's layer around one.
        adapter_name: Name of the first adapter.
        config: Settings of the adapter.
        name: Full name of the layer, for error texts.
        rank: Rank r in this layer.
        alpha: Numerator of the scale in this layer.
        **quantization: What ``peft.utils.get_quantization_kwargs`` gives for the model.

    Example:
        >>> config = BiloraConfig(r=2)
        >>> layer = BiloraLinear(nn.Linear(4, 3), "default", config=config, name="query", rank=2, alpha=4.0)
        >>> layer.singular_values("default").tolist()  # s starts at zero, and with it the update
        [0.0, 0.0]
        >>> layer.get_delta_weight("default").abs().max().item()
        0.0
    """

    # PEFT reads and rewrites the attributes listed here when it moves, casts, freezes, switches and deletes adapters;
    # each name starts with the prefix, because PEFT also splits the keys of files there.
    adapter_layer_names: tuple[str, ...] = ("bilora_P", "bilora_Q", "bilora_E")
    other_param_names: tuple[str, ...] = ("bilora_dropout", "bilora_settings")

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        *,
        config: BiloraConfig,
        name: str,
        rank: int,
        alpha: float,
        **quantization: Any,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        innermost = self.get_base_layer()
        self.quantization_backend = quantization_of(innermost, name, **quantization)
        # PEFT knows the sizes of every type that came through the line above.
        self.in_features, self.out_features = cast(tuple[int, int], _get_in_out_features(innermost))
        # Conv1D keeps its weight as (in, out).
        self.transposed = isinstance(innermost, Conv1D)
        self.bilora_P = nn.ParameterDict()
        self.bilora_Q = nn.ParameterDict()
        self.bilora_E = nn.ParameterDict()
        self.bilora_dropout = nn.ModuleDict()
        self.bilora_settings: dict[str, AdapterSettings] = {}
        # PEFT has the following as attributes of the class, where all layers would share one list.
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.cast_input_dtype_enabled = True
        self.update_layer(adapter_name, config=config, rank=rank, alpha=alpha)

    def update_layer(self, adapter_name: str, *, config: BiloraConfig, rank: int, alpha: float) -> None:
        """Add an adapter with this layer's rank and alpha, or start one of the same name afresh."""
        formulation = find_formulation(config.formulation)
        self.bilora_settings[adapter_name] = AdapterSettings(formulation, bool(config.normalized), alpha / rank)
        self.bilora_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.bilora_P[adapter_name] = _empty(self.out_features, rank)
        self.bilora_Q[adapter_name] = _empty(rank, self.in_features)
        self.bilora_E[adapter_name] = _empty(rank)
        self.reset_parameters(adapter_name, config=config)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @torch.no_grad()
    def reset_parameters(self, adapter_name: str, *, config: BiloraConfig) -> None:
        """Set P, Q and E to the start that the config asks for; see ``BiloraConfig.init_weights``."""
        P, Q, E = self.bilora_P[adapter_name], self.bilora_Q[adapter_name], self.bilora_E[adapter_name]
        if E.is_meta:  # low_cpu_mem_usage: the numbers come from a file
            return
        E.copy_(raw_start(config.formulation, E.numel(), value=config.first_value))
        if config.init_weights == "adalora":
            nn.init.normal_(P, std=0.02)
            nn.init.normal_(Q, std=0.02)
            return
        if config.init_weights == "lora":
            nn.init.kaiming_uniform_(Q, a=math.sqrt(5))  # PEFT's start of lora_A
            nn.init.zeros_(P)
            return
        nn.init.orthogonal_(Q)
        if config.normalized or not config.init_weights:
            nn.init.orthogonal_(P)
        else:
            # Keeps the base model's outputs bit for bit. P, not Q: P = 0 is a stationary point of the penalty R1, and
            # the gradient of P, through an orthonormal Q, is not zero.
            nn.init.zeros_(P)

    def held_adapters(self) -> list[str]:
        """Return the names of the adapters in this layer."""
        return list(self.bilora_settings)

    def active_held_adapters(self) -> list[str]:
        """Return the names of the active adapters that this layer holds."""
        return [name for name in self.active_adapters if name in self.bilora_settings]

    def lower_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """Return P and Q of an adapter, by their names below the layer."""
        return {f"bilora_P.{adapter}": self.bilora_P[adapter], f"bilora_Q.{adapter}": self.bilora_Q[adapter]}

    def upper_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """Return E of an adapter, by its name below the layer."""
        return {f"bilora_E.{adapter}": self.bilora_E[adapter]}

    def singular_values(self, adapter: str) -> Tensor:
        """Return s = f(E), ``(rank,)``, in at least float32."""
        # E is float32 unless the user cast the whole model: a softmax over bfloat16 would round s to three digits.
        raw = self.bilora_E[adapter]
        values = self.bilora_settings[adapter].formulation.values
        return values(raw.to(torch.promote_types(raw.dtype, torch.float32)))

    def values_between_zero_and_one(self, adapter: str) -> bool:
        """Return whether the formulation keeps every s_j in [0, 1]."""
        return self.bilora_settings[adapter].formulation.unit_interval

    def singular_vectors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Return P and Q as they enter the update: columns and rows of unit length where it is ``normalized``."""
        P, Q = self.bilora_P[adapter], self.bilora_Q[adapter]
        if not self.bilora_settings[adapter].normalized:
            return P, Q
        # The lengths stay in the graph: (P_j, s_j) -> (c P_j, s_j / c) is then no symmetry of the loss any more.
        return P * _inverse_lengths(P, dim=0).to(P.dtype), Q * _inverse_lengths(Q, dim=1)[:, None].to(Q.dtype)

    def coefficients(self, adapter: str) -> Tensor:
        """Return c, ``(rank,)``, such that the update is P diag(c) Q with P and Q as stored."""
        # c_j = (alpha / r) s_j, divided by ||P_j|| ||Q_j|| where the adapter is normalized: all factors meet here, on r
        # numbers, so that no tensor of the size of the output is multiplied by one.
        settings = self.bilora_settings[adapter]
        scaled = settings.scale * self.singular_values(adapter)
        if not settings.normalized:
            return scaled
        P, Q = self.bilora_P[adapter], self.bilora_Q[adapter]
        return scaled * _inverse_lengths(P, dim=0) * _inverse_lengths(Q, dim=1)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return the update P diag(c) Q in the layout of the base weight and in at least float32."""
        coefficients = self.coefficients(adapter)
        left = self.bilora_P[adapter] * coefficients  # (out, rank)
        delta: Tensor = left @ self.bilora_Q[adapter].to(left.dtype)
        return delta.T if self.transposed else delta

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of adapters to the base weight."""
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.bilora_settings:
                add_to_base(self, adapter, self.get_delta_weight(adapter), check=safe_merge)
                self.merged_adapters.append(adapter)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take all merged updates out of the base weight again, up to rounding."""
        if not self.merged:
            warnings.warn("no adapter is merged, so there is nothing to take out", stacklevel=3)
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            add_to_base(self, adapter, -self.get_delta_weight(adapter))

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        """Return the base layer's output plus the updates of the active adapters, unless disabled.

        With ``adapter_names``, one per row of the batch, every row gets the update of its own adapter alone.
        """
        if self.disable_adapters and self.merged:
            # PEFT's contract: a disabled adapter leaves the base model, also where it was merged.
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        if adapter_names is not None:
            return self._add_by_row(result, x, adapter_names)
        for adapter in self.active_held_adapters():
            # Never in place: a hypergradient may differentiate through the base result a second time.
            result = result + self._update(x, adapter).to(result.dtype)
        return result

    def _add_by_row(self, result: Tensor, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        # Beam search repeats each row, and some models flatten rows and tokens: either way a row's are neighbours.
        owners = [name for name in adapter_names for _ in range(len(x) // len(adapter_names))]
        for adapter in sorted(set(owners).intersection(self.held_adapters())):
            rows = torch.tensor([row for row, owner in enumerate(owners) if owner == adapter], device=x.device)
            result = result.index_add(0, rows, self._update(x[rows], adapter).to(result.dtype))
        return result

    def _update(self, x: Tensor, adapter: str) -> Tensor:
        P, Q = self.bilora_P[adapter], self.bilora_Q[adapter]
        x = self._cast_input_dtype(x, Q.dtype)
        hidden = functional.linear(self.bilora_dropout[adapter](x), Q)  # (..., rank)
        # In float32, as c is: the gradient of E is a sum over all tokens, which bfloat16 would round at every one.
        hidden = hidden * self.coefficients(adapter)
        return functional.linear(hidden.to(P.dtype), P)  # (..., out)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return True: the update is added to the base weight, as LoRA's is."""
        return True

    def extra_repr(self) -> str:
        """Return what PEFT shows of a quantised layer."""
        return str(quantization_extra_repr(self))

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        before = {name: getattr(self, name)[adapter_name] for name in self.adapter_layer_names}
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        # PEFT has cast E to the base model's dtype; steps of the upper level are too small for bfloat16.
        raw = before["bilora_E"].detach().to(self.bilora_P[adapter_name].device)
        self.bilora_E[adapter_name] = nn.Parameter(raw)
        # PEFT makes new parameters of those it casts, and new ones are trainable.
        for name, old in before.items():
            getattr(self, name)[adapter_name].requires_grad_(old.requires_grad)


def _empty(*shape: int) -> nn.Parameter:
    # Whatever the default dtype is: the orthonormal start cannot be worked out in less.
    return nn.Parameter(torch.empty(shape, dtype=torch.float32))


def _inverse_lengths(vectors: Tensor, *, dim: int) -> Tensor:
    # bfloat16 keeps three digits, and of a sum of many squares fewer.
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return vectors.square().sum(dim).clamp_min(_SHORTEST).rsqrt()
