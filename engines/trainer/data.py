"""Rows of a trainer: the columns that the model takes, with labels that it can learn, and the batches of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from peft import PeftModel

from bilora.data.loaders import Collate
from bilora.errors import DataError

Dataset = Iterable[Mapping[str, Any]]

LABELS = ("label", "label_ids", "labels")
"""Names that transformers' own collators turn into ``labels``."""


def training_rows(
    dataset: Dataset, model: PeftModel, *, columns: Collection[str] | None, label_names: Sequence[str], what: str
) -> list[dict[str, Any]]:
    """Return the rows of a data set as plain values, with their labels under the name that the model has for them.

    Args:
        dataset: Mappings, such as those of a ``datasets.Dataset``.
        model: The model, whose number of outputs bounds the labels.
        columns: Those that are kept; None keeps all.
        label_names: The model's names for labels, which every row must have.
        what: Name of the argument, for errors.

    Raises:
        DataError: A row has nothing that the model takes, no labels, or labels that the model cannot learn.
    """
    rows = []
    check = _label_check(model)
    for number, given in enumerate(dataset):
        renamed = {"labels" if name in LABELS else name: value for name, value in given.items()}
        # Numbers of torch or numpy do not stratify the split.
        row = {
            name: value.tolist() if hasattr(value, "tolist") else value
            for name, value in renamed.items()
            if columns is None or name in columns
        }
        if not set(row) - set(label_names) or not set(label_names) <= set(row):
            raise DataError(
                f"{what}[{number}] has the columns {', '.join(given)}; needed are {', '.join(label_names)} and "
                "inputs of the model, such as input_ids: tokenise the data set first"
            )
        fault = check(row.get("labels"))
        if fault:
            raise DataError(f"{what}[{number}] has the label {fault}")
        rows.append(row)
    return rows


def batches_of(collator: Callable[..., Any], dataset: Any) -> Collate:
    """Return a collator's function over :func:`training_rows`: it finds the labels where the data set had them."""
    name = next((name for row in dataset for name in row if name in LABELS), "labels")

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        given = [{name if key == "labels" else key: value for key, value in row.items()} for row in rows]
        # Betty takes what is no dict, such as a BatchEncoding, apart into its keys.
        return dict(collator(given))

    return collate


def _label_check(model: PeftModel) -> Callable[[Any], str | None]:
    """Return a function from the labels of a row to what is wrong with them."""
    with_classes = model.peft_config[model.active_adapter].task_type in ("SEQ_CLS", "TOKEN_CLS")
    classes = int(model.config.num_labels) if with_classes else 0
    regression = with_classes and (classes == 1 or model.config.problem_type == "regression")

    def fault(labels: Any) -> str | None:
        for label in labels if isinstance(labels, list | tuple) else (labels,):
            if isinstance(label, str):
                return f"{label!r}, a text; map the labels to numbers"
            # -100 marks what the loss passes over.
            bounded = with_classes and not regression and isinstance(label, int) and label != -100
            if bounded and not 0 <= label < classes:
                return (
                    f"{label}, and the model has {classes} outputs, for the classes 0 to {classes - 1}; load it with "
                    "another num_labels, or map the labels"
                )
        return None

    return fault
