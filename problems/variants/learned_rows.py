"""A weight in the lower loss for each training row, learned on D2, so that people can see what that finds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.row_marks import TrainingRows
from bilora.errors import SettingsError
from bilora.problems.variants.shaped_loss import LossShape, ShapedUpper, ShapeSettings, shape_of, shaped_variant

MOST_ROWS = 20_000


@dataclass(frozen=True)
class LearnedRowsSettings(ShapeSettings):
    """An adapter's settings, and how the weights are held together.

    Args:
        shrinkage: Weight of the mean square of the raw numbers in the upper loss, which pulls every weight to one.
    """

    shrinkage: float = 0.01

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        return super().faults() + self.negative_faults("shrinkage")


def row_weights(raw: Tensor) -> Tensor:
    """Return ``2 sigmoid(raw)``: weights between zero and two, all of them one at the start."""
    return 2 * raw.sigmoid()


class RowWeights(LossShape):
    """A table with a weight for each row."""

    def __init__(self, count: int, settings: LearnedRowsSettings) -> None:
        if count > MOST_ROWS:
            raise SettingsError(
                f"method 'learned_rows' keeps a number per row and upper step, and {count:,} training rows are more "
                f"than {MOST_ROWS:,}; set train_rows, or learn a weight per source"
            )
        super().__init__(torch.zeros(count), settings)

    def row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the cross entropy of each row times its weight."""
        losses = functional.cross_entropy(logits, batch["labels"], reduction="none")
        return row_weights(self.raw[batch["row_ids"]]) * losses

    def learned(self) -> dict[str, Any]:
        """Return the weights in the order of the rows, and in words how far they spread."""
        weights = row_weights(self.answer())
        low, middle, high = (weights.quantile(q).item() for q in (0.05, 0.5, 0.95))
        words = (
            f"weights of {len(weights):,} rows: {low:.2f} to {high:.2f} for nine tenths of them, median {middle:.2f}"
        )
        return self.told(words, row_weights=weights.tolist())


class ShrunkUpper(ShapedUpper):
    """The weights on D2, each drawn to one."""

    def penalty(self) -> Tensor:
        """Return the weighted mean square of the raw numbers."""
        raw = shape_of(self).raw
        return self.cfg.shrinkage * raw.square().mean()


def companion(model: nn.Module, settings: LearnedRowsSettings, rows: TrainingRows) -> RowWeights:
    """Return weights of one."""
    return RowWeights(rows.count, settings)


VARIANT = shaped_variant("learned_rows", LearnedRowsSettings, companion, upper=ShrunkUpper, row_marks=("row_ids",))
