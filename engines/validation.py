"""Loss and metrics of a model on labelled rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.metrics import compute_metrics
from bilora.problems.batches import to_device
from bilora.tasks import Task


def predict(
    model: nn.Module, loader: Iterable[Mapping[str, Tensor]], *, autocast_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Return logits ``(rows, labels)`` and labels ``(rows,)`` on the CPU, logits in float32.

    The model is called without labels, so that what a method adds to its loss does not enter. It is left in
    the mode it was in.

    Args:
        model: A model whose output has ``.logits``.
        loader: Batches with ``labels``.
        autocast_dtype: The autocast type of the forward pass; None for none.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    logits, labels = [], []
    casting = torch.autocast(device.type, dtype=autocast_dtype) if autocast_dtype else contextlib.nullcontext()
    try:
        with torch.no_grad(), casting:
            for batch in loader:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                logits.append(model(**to_device(inputs, device)).logits.float().cpu())
                labels.append(batch["labels"].cpu())
    finally:
        model.train(was_training)
    return torch.cat(logits), torch.cat(labels)


def task_loss(logits: Tensor, labels: Tensor, task: Task) -> float:
    """Return the mean cross entropy of a classification task, or the mean squared error of a regression task.

    Args:
        logits: ``(rows, labels)``.
        labels: ``(rows,)``.
        task: Says which of the two.

    Example:
        >>> from bilora.tasks import TASKS
        >>> task_loss(torch.tensor([[2.0], [3.0]]), torch.tensor([2.0, 1.0]), TASKS["stsb"])
        2.0
    """
    if task.is_regression:
        return float(functional.mse_loss(logits.squeeze(-1).double(), labels.double()))
    return float(functional.cross_entropy(logits.double(), labels))


def evaluate_loaders(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Mapping[str, Any]]],
    task: Task,
    *,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, float | None]:
    """Return ``loss`` and the task's metrics on every validation set.

    Args:
        model: The model.
        loaders: One loader a validation set; the first one's metrics have plain names, those of the others
            are followed by ``/`` and the name of the set.
        task: What the metrics are.
        autocast_dtype: As for :func:`predict`.
    """
    found: dict[str, float | None] = {}
    for index, (name, loader) in enumerate(loaders.items()):
        logits, labels = predict(model, loader, autocast_dtype=autocast_dtype)
        answers = logits.squeeze(-1) if task.is_regression else logits.argmax(dim=-1)
        metrics: dict[str, float | None] = {"loss": task_loss(logits, labels, task)}
        metrics |= compute_metrics(task, answers.tolist(), labels.tolist())
        suffix = "" if index == 0 else f"/{name}"
        found |= {key + suffix: value for key, value in metrics.items()}
    return found
