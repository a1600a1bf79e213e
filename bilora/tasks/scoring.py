"""Loss and metrics of a model on labelled rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from bilora.data.loaders import Collate
from bilora.metrics.classes import compute_metrics
from bilora.processes.processes import ONE_PROCESS, Processes, taken_in_turn
from bilora.tasks.catalog import Task
from bilora.tasks.text.batches import make_loader
from bilora.tensors import to_device

VALIDATION_BATCH = 64


def predicted_batches(
    model: nn.Module,
    loader: Iterable[Mapping[str, Tensor]],
    *,
    autocast_dtype: torch.dtype | None = None,
    processes: Processes = ONE_PROCESS,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits, in float32, and labels of each batch on the CPU.

    The model is called without labels, so that what a method adds to its loss does not enter. It is left in
    the mode it was in.

    Args:
        model: A model whose output has ``.logits``.
        loader: Batches with ``labels``.
        autocast_dtype: The autocast type of the forward pass; None for none.
        processes: They take the batches in turn, and each gives all of them, in the order of the loader.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()

    def predicted(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        # Entered anew for each batch: what runs between two of them is not ours.
        casting = torch.autocast(device.type, dtype=autocast_dtype) if autocast_dtype else contextlib.nullcontext()
        with torch.no_grad(), casting:
            logits = model(**to_device(inputs, device)).logits
        return logits.float().cpu(), batch["labels"].cpu()

    try:
        yield from taken_in_turn(loader, predicted, processes)
    finally:
        model.train(was_training)


def predict(
    model: nn.Module,
    loader: Iterable[Mapping[str, Tensor]],
    *,
    autocast_dtype: torch.dtype | None = None,
    processes: Processes = ONE_PROCESS,
) -> tuple[Tensor, Tensor]:
    """Return logits ``(rows, labels)`` and labels ``(rows,)`` of all batches of :func:`predicted_batches`."""
    found = predicted_batches(model, loader, autocast_dtype=autocast_dtype, processes=processes)
    logits, labels = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(labels)


def task_loss(logits: Tensor, labels: Tensor, task: Task) -> float:
    """Return the mean cross entropy of a classification task, or the mean squared error of a regression task.

    Args:
        logits: ``(rows, labels)``.
        labels: ``(rows,)``.
        task: Says which of the two.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> task_loss(torch.tensor([[2.0], [3.0]]), torch.tensor([2.0, 1.0]), TASKS["stsb"])
        2.0
    """
    if task.is_regression:
        return float(functional.mse_loss(logits.squeeze(-1).double(), labels.double()))
    return float(functional.cross_entropy(logits.double(), labels))


def evaluate_loader(
    model: nn.Module,
    loader: Iterable[Mapping[str, Any]],
    task: Task,
    *,
    autocast_dtype: torch.dtype | None = None,
    processes: Processes = ONE_PROCESS,
) -> dict[str, float | None]:
    """Return ``loss`` and the task's metrics on a validation set.

    Args:
        model: The model.
        loader: The set's batches.
        task: What the metrics are.
        autocast_dtype: As for :func:`predict`.
        processes: They share the set; each returns the numbers of the whole.
    """
    return score(*predict(model, loader, autocast_dtype=autocast_dtype, processes=processes), task)


def score(logits: Tensor, labels: Tensor, task: Task) -> dict[str, float | None]:
    """Return ``loss`` and the task's metrics of the answers to labelled rows.

    Args:
        logits: ``(rows, labels)``.
        labels: ``(rows,)``.
        task: What the metrics are.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> score(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]), TASKS["sst2"])["accuracy"]
        0.5
    """
    answers = logits.squeeze(-1) if task.is_regression else logits.argmax(dim=-1)
    metrics: dict[str, float | None] = {"loss": task_loss(logits, labels, task)}
    return metrics | compute_metrics(task, answers.tolist(), labels.tolist())


def length_order(encoded: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the positions of the rows with those of one length together, which need less padding.

    Example:
        >>> length_order([{"input_ids": [1, 2]}, {"input_ids": [1]}])
        [1, 0]
    """
    return sorted(range(len(encoded)), key=lambda position: len(encoded[position]["input_ids"]))


def ordered_loader(encoded: Sequence[Mapping[str, Any]], collate: Collate) -> DataLoader[Any]:
    """Return the batches of a set in :func:`length_order`."""
    ordered = [encoded[position] for position in length_order(encoded)]
    return make_loader(ordered, batch_size=VALIDATION_BATCH, seed=0, collate=collate, shuffle=False)


def one_class(predicted: Iterable[str], wanted: Iterable[str], *, of: str) -> tuple[str, ...]:
    """Return a warning where all predictions are of one class and the labels of several; else nothing.

    Args:
        predicted: The name of the class that each item got.
        wanted: The name of its own class.
        of: What the items are, such as ``"rows"``.

    Example:
        >>> one_class(["no", "no"], ["no", "yes"], of="rows")[0].split(";")[0]
        "all 2 rows are predicted as 'no', and they are of 2 classes"
        >>> one_class(["no", "yes"], ["no", "yes"], of="rows"), one_class(["no", "no"], ["no", "no"], of="rows")
        ((), ())
    """
    answers, classes = list(predicted), set(wanted)
    if len(set(answers)) != 1 or len(classes) < 2:
        return ()
    return (
        f"all {len(answers):,} {of} are predicted as {answers[0]!r}, and they are of {len(classes)} classes; the model "
        "tells nothing apart yet: train longer, take another learning rate, or --class-weights auto where most "
        f"{of} are of one class",
    )
