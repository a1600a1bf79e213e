"""A logit shift for each class in the lower loss, learned on D2: for classes of which there are few rows."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.row_marks import TrainingRows
from bilora.errors import first_ten
from bilora.problems.variants.shaped_loss import (
    LossShape,
    ShapedUpper,
    ShapeSettings,
    class_names,
    inputs_of,
    shaped_variant,
)


def shifted_losses(logits: Tensor, labels: Tensor, shifts: Tensor) -> Tensor:
    """Return ``-log softmax(logits + shifts)_y``, logit adjustment (Menon et al. 2021, arXiv 2007.07314, eq. 10).

    The model answers without the shift, and so has to make up for it: a class with a low one is answered more often.
    ``log(share of rows)`` is the shift by which all classes count alike.
    """
    return functional.cross_entropy(logits + shifts, labels, reduction="none")


class ClassShifts(LossShape):
    """A shift for each class, all zero at the start."""

    def __init__(self, names: list[str], settings: ShapeSettings) -> None:
        super().__init__(torch.zeros(len(names)), settings)
        self.names = names

    def row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the losses of shifted logits."""
        return shifted_losses(logits, batch["labels"], self.raw)

    def learned(self) -> dict[str, Any]:
        """Return the shifts by name of the class, with mean zero, and in words the classes that gain most first."""
        answer = self.answer()
        # The same number in all of them changes nothing.
        shifts = dict(zip(self.names, (answer - answer.mean()).tolist(), strict=True))
        words = first_ten(f"{name} {shifts[name]:+.2f}" for name in sorted(shifts, key=shifts.__getitem__))
        return self.told(f"logit shift by class, the most favoured first: {words}", shifts=shifts)


class BalancedUpper(ShapedUpper):
    """The shifts on D2, where every class of a batch has the same weight, however many rows it has."""

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean over the classes of a batch of the mean loss of each."""
        labels = batch["labels"]
        logits = self.forward(**inputs_of(batch)).logits
        losses = functional.cross_entropy(logits, labels, reduction="none")
        counts = torch.bincount(labels)
        return (losses / counts[labels]).sum() / (counts > 0).sum()

    def terms(self, batch: dict[str, Tensor]) -> float:
        """Return the number of classes."""
        return float(len(batch["labels"].unique()))


def companion(model: nn.Module, settings: ShapeSettings, rows: TrainingRows) -> ClassShifts:
    """Return shifts of zero."""
    return ClassShifts(class_names(model, rows), settings)


VARIANT = shaped_variant("learned_classes", ShapeSettings, companion, upper=BalancedUpper)
