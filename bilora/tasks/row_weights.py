"""Weights of single rows in the loss, as a column of the training file gives them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.row_marks import without_marks
from bilora.errors import SettingsError
from bilora.tasks.task import AnyTask


def row_weighted_loss(task: AnyTask, class_weights: Sequence[float] | None) -> Callable[[nn.Module, Any], Any]:
    """Return a loss ``sum_i w_i c_i l_i / sum_i w_i c_i`` of a model and a batch with ``weights`` w and classes' c.

    Raises:
        SettingsError: Rows of the task do not have one class each.
    """
    if "label2id" not in task.model_settings or task.hub_names.peft != "SEQ_CLS":
        raise SettingsError(f"weight_column weighs rows of one class each, and those of task {task.name!r} are not")
    of_class = None if class_weights is None else torch.tensor(class_weights)

    def loss(module: nn.Module, batch: Mapping[str, Any]) -> Any:
        inputs = dict(without_marks(batch))
        weights, labels = inputs.pop("weights"), inputs["labels"]
        output = module(**inputs)
        # The difference is taken, so that what a method has added to the model's loss stays, as AdaLoRA's regularizer.
        here = None if of_class is None else of_class.to(output.logits)
        added = output.loss - task.loss(output.logits, labels, here)
        losses = functional.cross_entropy(output.logits, labels, weight=here, reduction="none")
        output.loss = added + (weights.to(losses) * losses).sum() / weight_sum(weights, labels, of_class)
        return output

    return loss


def weight_sum(weights: Tensor, labels: Tensor, of_class: Tensor | None) -> Tensor:
    """Return the sum of the rows' weights, times those of their classes; 1 where it is 0, of a batch without weight."""
    total = (weights if of_class is None else weights * of_class.to(weights)[labels]).sum()
    return torch.where(total > 0, total, torch.ones_like(total))
