"""Rows of a trainer: the columns that the model takes, with labels that it can learn, and the batches of them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from peft import PeftModel

from bilora.data.loaders import Collate
from bilora.errors import DataError

Dataset = Iterable[Mapping[str, Any]]

# Names that transformers' own collators turn into ``labels``.
LABELS = ("label", "label_ids", "labels")


def training_rows(
    dataset: Dataset, model: PeftModel, *, columns: Collection[str] | None, label_names: Sequence[str], what: str
) -> list[dict[str, Any]]:
    """Return the rows of a data set as plain values, with their labels under the name that the model has for them."""
    rows = []
    for number, fields in enumerate(dataset):
        renamed = {"labels" if name in LABELS else name: value for name, value in fields.items()}
        # Numbers of torch or numpy do not stratify the split.
        row = {
            name: value.tolist() if hasattr(value, "tolist") else value
            for name, value in renamed.items()
            if columns is None or name in columns
        }
        if not set(row) - set(label_names) or not set(label_names) <= set(row):
            raise DataError(
                f"{what}[{number}] has the columns {', '.join(fields)}; needed are {', '.join(label_names)} and "
                "inputs of the model, such as input_ids: tokenise the data set first"
            )
        rows.append(row)
    check_labels(rows, model, what)
    return rows


def batches_of(collator: Callable[..., Any], dataset: Any) -> Collate:
    """Return a collator's function over :func:`training_rows`: it finds the labels where the data set has them."""
    # A collator may look for "label" by name, as DataCollatorWithPadding does.
    label = next((name for name in next(iter(dataset), ()) if name in LABELS), "labels")

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        renamed = [{label if name == "labels" else name: value for name, value in row.items()} for row in rows]
        # Betty takes a batch that is no dict, such as a BatchEncoding, apart into its keys.
        return dict(collator(renamed))

    return collate


def check_labels(rows: Iterable[Mapping[str, Any]], model: PeftModel, what: str) -> None:
    """Refuse rows with labels that the model cannot learn; one without labels passes."""
    # Checked here, since an index out of range is a crash on a GPU that names neither row nor label.
    task_type = model.peft_config[model.active_adapter].task_type
    outputs = int(model.config.num_labels) if task_type in ("SEQ_CLS", "TOKEN_CLS") else 0
    bounded = outputs > 1 and model.config.problem_type != "regression"
    for number, row in enumerate(rows):
        labels: Any = next((value for name, value in row.items() if name in LABELS), None)
        labels = labels.tolist() if hasattr(labels, "tolist") else labels
        fault = next((fault for label in _each(labels) if (fault := _fault(label, outputs if bounded else 0))), None)
        if fault is None and bounded and task_type == "SEQ_CLS":
            fault = _form_fault(labels, outputs)
        if fault is not None:
            raise DataError(f"{what}[{number}] has {fault}")


def _each(labels: Any) -> Sequence[Any]:
    return labels if isinstance(labels, list | tuple) else (labels,)


def _fault(label: Any, outputs: int) -> str | None:
    if isinstance(label, str):
        return f"the label {label!r}, a text; map the labels to numbers"
    # -100 marks what the loss passes over.
    if outputs and isinstance(label, int) and label != -100 and not 0 <= label < outputs:
        return (
            f"the label {label}, and the model has {outputs} outputs, for the classes 0 to {outputs - 1}; load it with "
            "another num_labels, or map the labels"
        )
    return None


def _form_fault(labels: Any, outputs: int) -> str | None:
    # By the type of the labels transformers tells one class of many from several at once.
    if isinstance(labels, float):
        return f"the label {labels}; a class is a whole number, and several classes are a list of {outputs} fractions"
    if isinstance(labels, list | tuple) and (len(labels) != outputs or not all(isinstance(x, float) for x in labels)):
        return f"the labels {list(labels)}; several classes at once are a list of {outputs} fractions, each 0.0 or 1.0"
    return None
