"""Label smoothing and the exponent of the generalized cross entropy, learned on D2: how far to trust any label."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bilora.data.row_marks import TrainingRows
from bilora.problems.variants.shaped_loss import LossShape, ShapeSettings, shaped_variant


@dataclass(frozen=True)
class LearnedLossSettings(ShapeSettings):
    """An adapter's settings, and where smoothing and exponent start: near the cross entropy.

    Args:
        smoothing_at_start: Share of a label that is spread over all classes.
        exponent_at_start: q, from 0 (the cross entropy) to 1 (the mean absolute error).
    """

    smoothing_at_start: float = 0.05
    exponent_at_start: float = 0.1

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        values = {name: getattr(self, name) for name in ("smoothing_at_start", "exponent_at_start")}
        wrong = {name: value for name, value in values.items() if not 0 < value < 1}
        return super().faults() + [
            f"{name} is {value}, it must be above 0 and below 1" for name, value in wrong.items()
        ]


def robust_losses(logits: Tensor, labels: Tensor, smoothing: Tensor, exponent: Tensor) -> Tensor:
    """Return ``sum_c t_c (1 - p_c^q) / q``, with ``t = (1 - smoothing) onehot(y) + smoothing / classes``.

    With a smoothing of zero it is the generalized cross entropy (Zhang & Sabuncu 2018, arXiv 1805.07836, eq. 6), and
    for q towards 0 the cross entropy of smoothed labels.
    """
    # 1 - p^q = -expm1(q log p), which keeps its digits for a small q.
    of_class = -torch.expm1(exponent * logits.log_softmax(dim=-1)) / exponent
    given = of_class.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return (1 - smoothing) * given + smoothing * of_class.mean(dim=-1)


class SmoothingAndExponent(LossShape):
    """The logits of both."""

    def __init__(self, settings: LearnedLossSettings) -> None:
        starts = (settings.smoothing_at_start, settings.exponent_at_start)
        super().__init__(torch.tensor([math.log(value / (1 - value)) for value in starts]), settings)

    def row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the generalized cross entropy of smoothed labels."""
        smoothing, exponent = self.raw.sigmoid()
        return robust_losses(logits, batch["labels"], smoothing, exponent)

    def learned(self) -> dict[str, Any]:
        """Return both."""
        smoothing, exponent = self.answer().sigmoid().tolist()
        words = f"label smoothing {smoothing:.3g}, exponent of the generalized cross entropy {exponent:.3g}"
        return self.told(words, smoothing=smoothing, exponent=exponent)


def companion(model: nn.Module, settings: LearnedLossSettings, rows: TrainingRows) -> SmoothingAndExponent:
    """Return both at their start."""
    return SmoothingAndExponent(settings)


VARIANT = shaped_variant("learned_loss", LearnedLossSettings, companion)
