"""How often each class is labelled as each other one, learned on D2: D1 has wrong labels, D2 was checked."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.row_marks import TrainingRows
from bilora.errors import first_ten
from bilora.problems.variants.shaped_loss import LossShape, ShapeSettings, class_names, shaped_variant


@dataclass(frozen=True)
class LearnedNoiseSettings(ShapeSettings):
    """An adapter's settings, and those of the transition matrix.

    Args:
        right_at_start: Share of the labels of each class that count as right before anything is learned.
    """

    right_at_start: float = 0.9

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        wrong = not 0.5 <= self.right_at_start < 1
        return super().faults() + ([f"right_at_start is {self.right_at_start}, it must be in [0.5, 1)"] * wrong)


def corrected_losses(logits: Tensor, labels: Tensor, log_T: Tensor) -> Tensor:
    """Return ``-log sum_c p_c T[c, y]``, forward correction (Patrini et al. 2017, arXiv 1609.03683, theorem 2).

    Args:
        logits: Of the model, ``(rows, classes)``; ``p`` is their softmax.
        labels: As given, ``(rows,)``.
        log_T: Logarithm of the chance ``T[c, y]`` that a row of class c is labelled y, ``(classes, classes)``.
    """
    # By logarithms, so that a probability near zero keeps its digits.
    return -torch.logsumexp(logits.log_softmax(dim=-1) + log_T[:, labels].T, dim=-1)


class TransitionMatrix(LossShape):
    """``T[c, y]``, the chance that a row of class c is labelled y; D2's labels, where it is given, count as right."""

    def __init__(self, names: list[str], settings: LearnedNoiseSettings, *, first_upper: int | None = None) -> None:
        right = settings.right_at_start
        # The softmax of a row has ``right`` on the diagonal, and the rest in equal parts beside it.
        super().__init__(torch.eye(len(names)) * math.log(right / (1 - right) * (len(names) - 1)), settings)
        self.names, self.first_upper = names, first_upper

    def row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the corrected losses, and the plain ones of D2's rows, which the last stage trains on too."""
        losses = corrected_losses(logits, batch["labels"], self.raw.log_softmax(dim=-1))
        if self.first_upper is None:
            return losses
        plain = functional.cross_entropy(logits, batch["labels"], reduction="none")
        return torch.where(batch["row_ids"] < self.first_upper, losses, plain)

    def learned(self) -> dict[str, Any]:
        """Return T by the names of its rows and columns, and in words its diagonal, the worst classes first."""
        T = self.answer().softmax(dim=-1).tolist()
        by_name = {name: dict(zip(self.names, row, strict=True)) for name, row in zip(self.names, T, strict=True)}
        words = first_ten(
            self._of_class(name, by_name[name]) for name in sorted(self.names, key=lambda c: by_name[c][c])
        )
        return self.told(f"share of right labels by class: {words}", noise=by_name)

    def _of_class(self, name: str, row: dict[str, float]) -> str:
        other = max((given for given in row if given != name), key=row.__getitem__)
        return f"{name} {row[name]:.0%} ({row[other]:.0%} are labelled {other})"


def companion(model: nn.Module, settings: LearnedNoiseSettings, rows: TrainingRows) -> TransitionMatrix:
    """Return a transition matrix near the identity."""
    return TransitionMatrix(class_names(model, rows), settings, first_upper=rows.first_upper)


VARIANT = shaped_variant("learned_noise", LearnedNoiseSettings, companion, row_marks=("row_ids",))
