"""A method of one's own, outside the library: D2 decides how much each class of D1 counts.

python benchmarks/run_glue.py --method examples.my_variant:VARIANT lora
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.row_marks import TrainingRows
from bilora.problems.variants.shaped_loss import (
    LossShape,
    ShapedUpper,
    ShapeSettings,
    class_names,
    shape_of,
    shaped_variant,
)


@dataclass(frozen=True)
class WeightSettings(ShapeSettings):
    """An adapter's settings, and how the weights are held together.

    Args:
        shrinkage: Weight of the mean square of the raw numbers in the upper loss, which pulls every weight to one.
    """

    shrinkage: float = 0.01

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        return super().faults() + self.negative_faults("shrinkage")


class ClassWeights(LossShape):
    """Positive weights with mean one, ``C softmax(raw)`` of C classes."""

    def __init__(self, names: list[str], settings: WeightSettings) -> None:
        super().__init__(torch.zeros(len(names)), settings)
        self.names = names

    def row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the cross entropy of each row times the weight of its class, ``(rows,)``."""
        weights = len(self.names) * self.raw.softmax(dim=-1)
        return weights[batch["labels"]] * functional.cross_entropy(logits, batch["labels"], reduction="none")

    def learned(self) -> dict[str, Any]:
        """Return the weights by name of the class, for learned.json, and in words."""
        answer = (len(self.names) * self.answer().softmax(dim=-1)).tolist()
        words = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(self.names, answer, strict=True))
        return self.told(f"weight by class: {words}", weights=dict(zip(self.names, answer, strict=True)))


class WeightUpper(ShapedUpper):
    """The weights on D2, ``loss(D2) + shrinkage * mean raw^2``."""

    def penalty(self) -> Tensor:
        """Return the weighted penalty."""
        raw = shape_of(self).raw
        return self.cfg.shrinkage * raw.square().mean()


def companion(model: nn.Module, settings: WeightSettings, rows: TrainingRows) -> ClassWeights:
    """Return weights of one for the classes of the training rows."""
    return ClassWeights(class_names(model, rows), settings)


VARIANT = shaped_variant("class_weights", WeightSettings, companion, upper=WeightUpper)
