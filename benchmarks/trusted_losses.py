"""The rivals that train with another loss, each as a variant of one level, and what they estimate before."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bilora.data.row_marks import TrainingRows
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.stage import Stage
from bilora.problems.variant import Variant
from bilora.problems.variants import lora
from bilora.problems.variants.learned_classes import shifted_losses
from bilora.problems.variants.learned_loss import robust_losses
from bilora.problems.variants.learned_noise import corrected_losses
from bilora.problems.variants.shaped_loss import inputs_of

# Of logits, labels and row ids: the loss of each row.
RowLosses = Callable[[Tensor, Tensor, Tensor], Tensor]

# Under a class that no trusted row is taken for: the logarithm of zero has no gradient.
SMALLEST = 1e-6


class FixedLoss(Companion):
    """A loss of rows in which nothing is learned."""

    def __init__(self, row_losses: RowLosses) -> None:
        super().__init__()
        self.row_losses = row_losses

    def learned(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class FixedLossLower(LowerProblem):
    """The only level, whose loss is the mean of its companion's."""

    def training_step(self, batch: Any) -> Tensor:
        """Return the mean loss of the rows."""
        assert isinstance(self.companion, FixedLoss)
        logits = self.forward(**inputs_of(batch)).logits.float()
        return self.companion.row_losses(logits, batch["labels"], batch["row_ids"]).mean()


def with_loss(name: str, row_losses: RowLosses) -> Variant:
    """Return LoRA on all rows with another loss."""

    def companion(model: Any, settings: Any, rows: TrainingRows) -> FixedLoss:
        return FixedLoss(row_losses)

    return replace(
        lora.VARIANT, name=name, lower=FixedLossLower, companion=companion, row_marks=("row_ids",), own_loss=True
    )


def label_smoothing(share: float) -> RowLosses:
    """Return the cross entropy of labels of which ``share`` is spread over all classes (Szegedy et al. 2016)."""
    return lambda logits, labels, ids: functional.cross_entropy(logits, labels, reduction="none", label_smoothing=share)


def generalized_cross_entropy(exponent: float) -> RowLosses:
    """Return ``(1 - p_y^q) / q`` (Zhang & Sabuncu 2018, arXiv 1805.07836, eq. 6)."""
    return lambda logits, labels, ids: robust_losses(logits, labels, torch.tensor(0.0), torch.tensor(exponent))


def logit_adjustment(counts: Tensor, *, tau: float = 1.0) -> RowLosses:
    """Return ``-log softmax(logits + tau log prior)_y`` (Menon et al. 2021, arXiv 2007.07314, eq. 10).

    Args:
        counts: Training rows of each class, ``(classes,)``.
        tau: How far the logits are shifted; 1 is right for the mean of the classes' accuracies.
    """
    shifts = tau * (counts / counts.sum()).log()
    return lambda logits, labels, ids: shifted_losses(logits, labels, shifts.to(logits))


def gold_matrix(chances: Tensor, labels: Tensor) -> Tensor:
    """Return ``T[c, g]``, the mean probability of g over the trusted rows of class c (arXiv 1802.05300, eq. 2).

    Args:
        chances: What a model of the doubtful labels says of the trusted rows, ``(rows, classes)``.
        labels: Of these rows, ``(rows,)``; each class has one.
    """
    return torch.stack([chances[labels == label].mean(dim=0) for label in range(chances.shape[-1])])


def gold_correction(matrix: Tensor, *, first_trusted: int) -> RowLosses:
    """Return ``-log sum_c p_c T[c, y]`` of doubtful rows, and the cross entropy of trusted ones, which come last."""
    log_T = matrix.float().clamp_min(SMALLEST).log()

    def losses(logits: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        plain = functional.cross_entropy(logits, labels, reduction="none")
        return torch.where(ids < first_trusted, corrected_losses(logits, labels, log_T.to(logits)), plain)

    return losses


def _then_trusted(settings: Any) -> tuple[Stage, ...]:
    doubtful = Stage("doubtful", LowerProblem, rows="lower", small_upper=True)
    # As the tool's own ending goes on.
    return doubtful, Stage("trusted", LowerProblem, rows="upper", share=0.25, rate=0.5, small_upper=True)


NOISY_THEN_TRUSTED = replace(lora.VARIANT, name="plain_noisy_then_trusted", plan=_then_trusted)
"""LoRA on the doubtful rows that goes on with the trusted ones, with nothing learned (arXiv 2305.17442)."""
