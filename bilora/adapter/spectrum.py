"""The spectrum of an adapter: how large each rank-one term of each layer has become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from peft import PeftModel
from torch import Tensor

from bilora.adapter.layer import BiloraLinear
from bilora.errors import SettingsError

# From a layer and the name of an adapter to one magnitude per rank-one term, (rank,).
Measure: TypeAlias = Callable[[BiloraLinear, str], Tensor]


def term_magnitudes(layer: BiloraLinear, adapter: str) -> Tensor:
    """Return ``m_j = |c_j| ||P_j|| ||Q_j||``, the Frobenius norm of each term, ``(rank,)`` in float64 on the CPU."""
    # The pseudo values alone mean little: (P_j, s_j) -> (c P_j, s_j / c) leaves the model unchanged. The m_j do not
    # change with it, hold alpha / r, so that layers compare, and bound what is lost: ||dropped part||_F <= sum of the
    # dropped m_j.
    P, Q = layer.bilora_P[adapter].detach().double(), layer.bilora_Q[adapter].detach().double()
    coefficients = layer.coefficients(adapter).detach().double()
    sizes: Tensor = coefficients.abs() * P.norm(dim=0) * Q.norm(dim=1)
    return sizes.cpu()


def selection_weights(layer: BiloraLinear, adapter: str) -> Tensor:
    """Return ``|s_j|`` alone, for methods that take the values as weights of a selection, as AutoLoRA does."""
    # Without ||P_j|| ||Q_j||: AutoLoRA thresholds weights that sum to one, whatever the size of their terms.
    return layer.singular_values(adapter).detach().double().abs().cpu()


def adapted_layers(model: PeftModel, adapter: str) -> dict[str, BiloraLinear]:
    """Return the layers that hold a BiLoRA adapter, by their names in the base model; refuse a model without one."""
    base = model.get_base_model()
    layers = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, BiloraLinear) and adapter in module.held_adapters()
    }
    if not layers:
        raise SettingsError(
            f"the model ({type(base).__name__}) has no layer with a BiLoRA adapter {adapter!r}, and so no singular "
            "values"
        )
    return layers


def magnitudes(model: PeftModel, *, adapter: str = "default", measure: Measure = term_magnitudes) -> dict[str, Tensor]:
    """Return the magnitudes of every adapted layer, by its name in the base model.

    Args:
        model: A model with a BiLoRA adapter.
        adapter: Name of the adapter.
        measure: From a layer to the magnitudes of its terms.

    Returns:
        ``(rank,)`` per layer, in float64 on the CPU, unless the measure gives another type.

    Raises:
        SettingsError: No layer has such an adapter.

    Example:
        >>> from peft import get_peft_model
        >>> from torch import nn
        >>> from bilora import BiloraConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), BiloraConfig(r=2, target_modules=["0"]))
        >>> magnitudes(model)
        {'0': tensor([0., 0.], dtype=torch.float64)}
    """
    return {name: measure(layer, adapter) for name, layer in adapted_layers(model, adapter).items()}


@dataclass(frozen=True)
class Spectrum:
    """The magnitudes of the terms of each layer, the largest first, and how many of them are kept.

    Args:
        values: Magnitudes by layer, ``(rank,)``, in descending order.
        kept: Number of terms kept, by layer.
    """

    values: dict[str, list[float]]
    kept: dict[str, int]

    @classmethod
    def of(cls, sizes: Mapping[str, Tensor], kept: Mapping[str, int] | None = None) -> Spectrum:
        """Return the spectrum of magnitudes; without ``kept``, all that are not zero are.

        Example:
            >>> import torch
            >>> Spectrum.of({"query": torch.tensor([0.0, 2.0])}).kept
            {'query': 1}
        """
        values = {name: terms.sort(descending=True).values.tolist() for name, terms in sizes.items()}
        if kept is None:
            kept = {name: sum(value > 0 for value in terms) for name, terms in values.items()}
        return cls(values, dict(kept))

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object per layer, with ``layer``, ``values`` and ``kept``."""
        return [{"layer": name, "values": terms, "kept": self.kept[name]} for name, terms in self.values.items()]

    def table(self) -> str:
        """Return one line per layer: its name, the kept rank of its rank, and the values, with a bar before the cut."""
        width = max(len("layer"), *(len(name) for name in self.values))
        lines = [f"{'layer':{width}}  rank  magnitudes"]
        for name, values in self.values.items():
            words = [f"{value:.3g}" for value in values]
            if self.kept[name] < len(words):
                words.insert(self.kept[name], "|")
            lines.append(f"{name:{width}}  {f'{self.kept[name]}/{len(values)}':4}  {' '.join(words)}")
        return "\n".join(lines)
