"""Data sets and outputs of a trainer: columns that the model takes, batches, and predictions put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import default_data_collator

from bilora.data.loaders import Collate
from bilora.errors import DataError
from bilora.tasks.text.batches import Collator
from bilora.tensors import to_device

IGNORED = -100
"""What fills up labels and outputs of different lengths, as in transformers."""


def model_rows(dataset: Iterable[Mapping[str, Any]], model: nn.Module, *, what: str, labelled: bool) -> list[Any]:
    """Return the rows of a data set with the columns that the model's forward takes; ``label`` becomes ``labels``.

    Args:
        dataset: Mappings, such as those of a ``datasets.Dataset``.
        model: The model below the adapter.
        what: Name of the argument, for errors.
        labelled: Whether every row must have labels.

    Raises:
        DataError: A row has none of the columns, or no labels.
    """
    known = set(inspect.signature(model.forward).parameters)
    rows = []
    for number, given in enumerate(dataset):
        renamed = {"labels" if name == "label" else name: value for name, value in given.items()}
        row = {name: value for name, value in renamed.items() if name in known}
        if not set(row) - {"labels"} or (labelled and "labels" not in row):
            raise DataError(
                f"{what}[{number}] has the columns {', '.join(given)}; needed are {'labels and ' if labelled else ''}"
                "inputs of the model, such as input_ids: tokenise the data set first"
            )
        rows.append(row)
    return rows


def collate_for(processing_class: Any, data_collator: Callable[..., Any] | None) -> Collate:
    """Return what makes a plain dict of some rows: the user's collator, or padding by the tokenizer, or stacking."""
    if data_collator is not None:
        chosen: Callable[..., Any] = data_collator
    else:
        chosen = default_data_collator if processing_class is None else _padding(processing_class)
    # Betty takes what is no dict, such as a BatchEncoding, apart into its keys.
    return lambda rows: dict(chosen(list(rows)))


def _padding(tokenizer: Any) -> Callable[..., Any]:
    collate = Collator(tokenizer)

    def pad(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if "labels" in rows[0]:
            return collate(rows)
        return dict(tokenizer.pad([dict(row) for row in rows], padding="longest", return_tensors="pt"))

    return pad


@dataclass(frozen=True)
class Outputs:
    """What a model gave for the rows of a data set.

    Args:
        predictions: Logits, ``(rows, ...)``.
        label_ids: Labels, or None where the rows have none.
        loss: Mean loss over the rows, or None without labels.
    """

    predictions: np.ndarray[Any, Any]
    label_ids: np.ndarray[Any, Any] | None
    loss: float | None


@torch.no_grad()
def run_model(
    model: nn.Module, rows: Sequence[Any], *, collate: Collate, batch_size: int, dtype: torch.dtype | None
) -> Outputs:
    """Return the outputs for all rows, in their order; the model is left in the mode it was in.

    Args:
        model: The model.
        rows: From :func:`model_rows`.
        collate: From :func:`collate_for`.
        batch_size: Rows a batch.
        dtype: The autocast type of the forward pass; None for none.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    total = 0.0
    try:
        for start in range(0, len(rows), batch_size):
            batch = collate(rows[start : start + batch_size])
            with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                output = model(**to_device(batch, device))
            logits.append(output.logits.float().cpu())
            if "labels" in batch:
                labels.append(batch["labels"].cpu())
                total += float(output.loss) * len(batch["labels"])
    finally:
        model.train(training)
    there = bool(labels)
    return Outputs(_joined(logits), _joined(labels) if there else None, total / len(rows) if there else None)


def _joined(parts: list[Tensor]) -> np.ndarray[Any, Any]:
    """Return the parts as one array; where their second dimension differs, it is filled up."""
    if parts[0].dim() < 2:
        return torch.cat(parts).numpy()
    longest = max(part.shape[1] for part in parts)
    filled = []
    for part in parts:
        whole = part.new_full((part.shape[0], longest, *part.shape[2:]), IGNORED)
        whole[:, : part.shape[1]] = part
        filled.append(whole)
    return torch.cat(filled).numpy()
