"""What a model gives for encoded rows, batch by batch, and in which order."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bilora.data.loaders import Collate, make_loader
from bilora.processes.processes import taken_in_turn
from bilora.tasks.task import Inference
from bilora.tensors import to_device

Item = TypeVar("Item")

# Predictions keep no gradients, so that more rows fit in memory than in a batch of training.
VALIDATION_BATCH = 32


@contextlib.contextmanager
def evaluating(inference: Inference) -> Iterator[Callable[[], contextlib.AbstractContextManager[torch.device]]]:
    """Put the model into eval mode, and give a context for one batch: no gradients, autocast, the model's device."""
    model, dtype = inference.model, inference.autocast_dtype
    device = next(model.parameters()).device

    @contextlib.contextmanager
    def one_batch() -> Iterator[torch.device]:
        # Entered anew for each batch: whatever runs between two of them, such as sending, is not to be cast.
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext():
            yield device

    was_training = model.training
    model.eval()
    # In finally: whoever catches an error of the model may train on, with the dropout that was there.
    try:
        yield one_batch
    finally:
        model.train(was_training)


def predicted_batches(inference: Inference, loader: Iterable[Mapping[str, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits, in float32, and labels of each batch on the CPU, in the order of the loader."""
    with evaluating(inference) as one_batch:

        def predicted(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            # Without labels, so that a regularizer that a method adds to the model's loss does not enter.
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            with one_batch() as device:
                logits = inference.model(**to_device(inputs, device)).logits
            # Off the device at once, which else holds the logits of the whole set; NumPy has no bfloat16.
            return logits.float().cpu(), batch["labels"].cpu()

        yield from taken_in_turn(loader, predicted, inference.processes)


def predict(inference: Inference, loader: Iterable[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return logits ``(rows, labels)`` and labels ``(rows, ...)`` of all batches of :func:`predicted_batches`."""
    logits, labels = zip(*predicted_batches(inference, loader), strict=True)
    return torch.cat(logits), torch.cat(labels)


def length_order(encoded: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the positions of the rows with those of one length together, which need less padding."""
    # sorted keeps rows of one length in their order, so that in_row_order finds the same order again.
    return sorted(range(len(encoded)), key=lambda position: len(encoded[position]["input_ids"]))


def ordered_loader(encoded: Sequence[Mapping[str, Any]], collate: Collate) -> DataLoader[Any]:
    """Return the batches of a set in :func:`length_order`."""
    ordered = [encoded[position] for position in length_order(encoded)]
    # The seed orders nothing here; with it the loader has a generator of its own, and leaves torch's alone.
    return make_loader(ordered, batch_size=VALIDATION_BATCH, seed=0, collate=collate, shuffle=False)


def in_row_order(items: Iterable[Item], encoded: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return the answers to rows in :func:`length_order`, put back into the order of the rows."""
    by_position = dict(zip(length_order(encoded), items, strict=True))
    return [by_position[position] for position in range(len(encoded))]


def answers_and_labels(
    predictions: Sequence[Mapping[str, Any]], encode: Callable[[Any], Any]
) -> tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]:
    """Return the answers and the labels of the predictions of an evaluation, each encoded."""
    answers, labels = (numpy.asarray([encode(row[key]) for row in predictions]) for key in ("prediction", "label"))
    return answers, labels


def by_rows(
    predictions: Sequence[Mapping[str, Any]], measure: Callable[..., float], encode: Callable[[Any], Any]
) -> Callable[[Any], float]:
    """Return a measure as a function of row numbers, out of the predictions of an evaluation."""
    answers, labels = answers_and_labels(predictions, encode)
    return lambda rows: measure(answers[rows], labels[rows])


def short_chance(chance: float) -> float | None:
    """Return a probability as the files of predictions have it, with six digits behind the point; None for NaN."""
    return round(chance, 6) if math.isfinite(chance) else None


def one_class(predicted: Iterable[str], labels: Iterable[str], *, of: str) -> tuple[str, ...]:
    """Return a warning where all predictions are of one class and the labels of several; else nothing."""
    answers, classes = list(predicted), set(labels)
    # Rows of one class are rightly answered with one class.
    if len(set(answers)) != 1 or len(classes) < 2:
        return ()
    return (
        f"all {len(answers):,} {of} are predicted as {answers[0]!r}, and they are of {len(classes)} classes; the model "
        "tells nothing apart yet: train longer, take another learning rate, or --class-weights auto where most "
        f"{of} are of one class",
    )
