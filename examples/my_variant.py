"""A method of one's own, outside the library: BiLoRA that learns on D2 which rank-one terms it can do without.

python benchmarks/run_glue.py --method examples.my_variant:VARIANT bilora
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bilora.adapter.level_parameters import pseudo_svd_layers
from bilora.problems.variants import bilora
from bilora.problems.variants.bilora import BiloraSettings, BiloraUpper


@dataclass(frozen=True)
class SparseSettings(BiloraSettings):
    """BiLoRA's settings, with values that are magnitudes, and the weight of the new penalty.

    Args:
        sparsity: Weight of the mean absolute value in the upper loss.
    """

    formulation: str = "real"
    normalized: bool = True
    sparsity: float = 0.01

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        wrong = [] if self.sparsity >= 0 else [f"sparsity is {self.sparsity}, it must not be negative"]
        return super().faults() + wrong


class SparseUpper(BiloraUpper):
    """Values on D2 under an L1 penalty, ``loss(D2) + sparsity * mean |s|``."""

    def penalty(self) -> Tensor | None:
        """Return the weighted penalty."""
        values = [
            layer.singular_values(adapter).abs()
            for _, layer in pseudo_svd_layers(self.module)
            for adapter in layer.active_held_adapters()
        ]
        return self.cfg.sparsity * torch.cat(values).mean()


VARIANT = replace(
    bilora.VARIANT,
    name="sparse_values",
    upper=SparseUpper,
    settings=SparseSettings,
    ending={"name": "prune", "ranks": {"name": "threshold", "fraction": 0.1}},
)
