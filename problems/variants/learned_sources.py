"""A weight in the lower loss for each source of rows, learned on D2: which annotator, site or corpus to follow."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.row_marks import TrainingRows
from bilora.errors import first_ten
from bilora.problems.variants.shaped_loss import LossShape, ShapeSettings, shaped_variant


def source_weights(raw: Tensor) -> Tensor:
    """Return ``S softmax(raw)`` of S sources: positive weights with mean one, all of them one at the start."""
    return len(raw) * raw.softmax(dim=-1)


class SourceWeights(LossShape):
    """A weight for each source."""

    def __init__(self, names: tuple[str, ...], settings: ShapeSettings) -> None:
        super().__init__(torch.zeros(len(names)), settings)
        self.names = names

    def row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the cross entropy of each row times the weight of its source."""
        losses = functional.cross_entropy(logits, batch["labels"], reduction="none")
        return source_weights(self.raw)[batch["sources"]] * losses

    def learned(self) -> dict[str, Any]:
        """Return the weights by name of the source, and in words the largest first."""
        weights = dict(zip(self.names, source_weights(self.answer()).tolist(), strict=True))
        words = first_ten(f"{name} {weights[name]:.2f}" for name in sorted(weights, key=weights.__getitem__)[::-1])
        return self.told(f"weight by source: {words}", sources=weights)


def companion(model: nn.Module, settings: ShapeSettings, rows: TrainingRows) -> SourceWeights:
    """Return weights of one."""
    return SourceWeights(rows.source_names, settings)


VARIANT = shaped_variant("learned_sources", ShapeSettings, companion, row_marks=("sources",))
