"""Cutting the ranks of a trained adapter in place: the small terms go, the others stay what they are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from bilora.adapter.config import BiloraConfig
from bilora.adapter.layer import BiloraLinear
from bilora.adapter.ranks import RankRule
from bilora.adapter.spectrum import Measure, Spectrum, adapted_layers, magnitudes, term_magnitudes
from bilora.errors import SettingsError

# Positions of the terms that are kept, in ascending order, by layer.
Terms = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cut:
    """How the ranks of an adapter are cut.

    Args:
        rule: From magnitudes to ranks, see :data:`bilora.adapter.ranks.RANK_RULES`.
        measure: From a layer to the magnitudes of its terms.
        keep_values: Whether the kept terms keep their learned values; otherwise each gets a value of 1, and what is
            left is plain LoRA of lower rank.
    """

    rule: RankRule
    measure: Measure = field(default=term_magnitudes)
    keep_values: bool = True

    def choose(self, model: PeftModel, *, adapter: str = "default") -> tuple[Terms, Spectrum]:
        """Return the terms to keep of each layer, the largest ones, and the spectrum they were chosen by."""
        sizes = magnitudes(model, adapter=adapter, measure=self.measure)
        ranks = checked_ranks(self.rule(sizes), sizes)
        # A stable sort, so that of equal terms the same ones stay on every machine.
        order = {name: values.argsort(descending=True, stable=True).tolist() for name, values in sizes.items()}
        terms = {name: tuple(sorted(positions[: ranks[name]])) for name, positions in order.items()}
        return terms, Spectrum.of(sizes, ranks)


def checked_ranks(ranks: Mapping[str, int], sizes: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the ranks that a rule gave; refuse them where a layer is missing, unknown, or has fewer terms."""
    # A rule may be a user's own function.
    if ranks.keys() != sizes.keys():
        wrong = sorted(ranks.keys() ^ sizes.keys())
        raise SettingsError(f"the rank rule must give each adapted layer a rank and no other; see {', '.join(wrong)}")
    for name, rank in ranks.items():
        if not 0 <= rank <= len(sizes[name]):
            raise SettingsError(f"the rank rule gives layer {name!r} a rank of {rank}; it has {len(sizes[name])} terms")
    return dict(ranks)


def cut_ranks(model: PeftModel, kept: Terms, *, adapter: str = "default", keep_values: bool = True) -> None:
    """Leave an adapter with the given terms only, as an adapter of formulation ``real`` with one rank per layer.

    The terms that stay keep P_j, Q_j, s_j and the scale alpha / r, so that the update loses exactly the terms that go.
    A layer whose terms all go keeps one of value 0, since no adapter has rank 0.

    Args:
        model: A model with a BiLoRA adapter, which is changed in place; parameters of its layers are new objects.
        kept: Positions of the terms to keep, by name of the layer in the base model.
        adapter: Name of the adapter.
        keep_values: Whether the terms keep their values or get a value of 1.

    Example:
        >>> from peft import get_peft_model
        >>> config = BiloraConfig(r=3, target_modules=["0"], init_weights=False)
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)
        >>> cut_ranks(model, {"0": (0, 2)})
        >>> model.base_model.model[0].singular_values("default").tolist()
        [1.0, 1.0]
    """
    config: Any = model.peft_config[adapter]
    layers = adapted_layers(model, adapter)
    # In `real` a value no longer depends on the others of its layer, as it does under softmax.
    config.formulation, config.start_value = "real", None
    ranks = {name: max(1, len(kept[name])) for name in layers}
    # The scale alpha / r stays, so alpha changes with the rank.
    alphas = {name: layer.bilora_settings[adapter].scale * ranks[name] for name, layer in layers.items()}
    # PEFT reads the keys as regular expressions that fit the end of a name unless they are anchored.
    config.rank_pattern = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != config.r}
    config.alpha_pattern = {f"^{re.escape(name)}": alpha for name, alpha in alphas.items() if alpha != config.alpha}
    for name, layer in layers.items():
        _cut_layer(layer, adapter, config, kept=kept[name], alpha=alphas[name], keep_values=keep_values)


@torch.no_grad()
def _cut_layer(
    layer: BiloraLinear, adapter: str, config: BiloraConfig, *, kept: tuple[int, ...], alpha: float, keep_values: bool
) -> None:
    positions = list(kept) or [0]
    P, Q, E = layer.bilora_P[adapter], layer.bilora_Q[adapter], layer.bilora_E[adapter]
    values = layer.singular_values(adapter)[positions] if keep_values else torch.ones(len(positions))
    values = values.to(E) if kept else torch.zeros_like(E[:1])
    layer.update_layer(adapter, config=config, rank=len(positions), alpha=alpha)
    # update_layer gives new, trainable parameters; what was frozen stays frozen.
    layer.bilora_P[adapter] = nn.Parameter(P[:, positions].clone(), requires_grad=P.requires_grad)
    layer.bilora_Q[adapter] = nn.Parameter(Q[positions].clone(), requires_grad=Q.requires_grad)
    layer.bilora_E[adapter] = nn.Parameter(values.clone(), requires_grad=E.requires_grad)
