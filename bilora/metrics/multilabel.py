"""The metrics of rows that have any number of labels each, and the table of them by label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import datasets
import numpy
from sklearn import metrics as sklearn_metrics

from bilora.errors import DataError
from bilora.metrics.metric import INDEX, Compute, Metric, Undefined
from bilora.settings.lookup import find

if TYPE_CHECKING:
    from bilora.tasks.multilabel.task import MultilabelTask

Array = numpy.ndarray[Any, Any]


def micro_f1(predictions: Array, references: Array) -> float:
    """Return ``2 tp / (2 tp + fp + fn)``, counted over all rows and labels together."""
    if not predictions.any() and not references.any():
        raise Undefined("no row has a label, neither in the predictions nor in the references")
    return float(sklearn_metrics.f1_score(references, predictions, average="micro", zero_division=0.0))


def macro_f1(predictions: Array, references: Array) -> float:
    """Return the mean of the f1 of every label that some row has or gets, each label counting the same."""
    if not predictions.any() and not references.any():
        raise Undefined("no row has a label, neither in the predictions nor in the references")
    # A label that no row has and none gets is 0/0. NaN leaves it out; as zero it would keep a perfect model below one.
    return float(sklearn_metrics.f1_score(references, predictions, average="macro", zero_division=numpy.nan))


def subset_accuracy(predictions: Array, references: Array) -> float:
    """Return the fraction of rows whose labels are all right."""
    return float(sklearn_metrics.accuracy_score(references, predictions))


MULTILABEL_MEASURES: dict[str, Compute] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_f1,
    "subset_accuracy": subset_accuracy,
}


def multilabel_metric(task: MultilabelTask) -> Metric:
    """Return the metric of a task, over rows of 0 and 1 per label."""
    measures = {key: find(MULTILABEL_MEASURES, key, kind="metric") for key in task.metric_keys}
    return Metric(task.name, measures, datasets.Sequence(INDEX), convert=lambda rows: numpy.asarray(list(rows)))


def compute_multilabel(task: MultilabelTask, predictions: Any, references: Any) -> dict[str, float | None]:
    """Return the metrics of a task by key, the headline one first."""
    predicted, labels = _matrices(predictions, references, len(task.label_names))
    return dict(multilabel_metric(task).compute(predictions=predicted, references=labels))


def label_table(predictions: Any, references: Any, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return ``label``, ``precision``, ``recall``, ``f1`` and ``support`` (rows that have it) of every label.

    A share of nothing is None: the precision of a label that no row gets, the recall of one that no row has.
    """
    predicted, labels = _matrices(predictions, references, len(label_names))
    columns = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average=None, zero_division=numpy.nan)
    names = ("label", "precision", "recall", "f1", "support")
    rows = zip(label_names, *(column.tolist() for column in columns), strict=True)
    # NaN is the one value that differs from itself.
    return [dict(zip(names, (value if value == value else None for value in row), strict=True)) for row in rows]


def _matrices(predictions: Any, references: Any, labels: int) -> tuple[Array, Array]:
    matrices = []
    for what, values in (("predictions", predictions), ("references", references)):
        array = numpy.asarray(values)
        # With one column scikit-learn would take the rows for classes 0 and 1, and average over both.
        if array.ndim != 2 or not len(array) or array.shape[1] != labels or labels < 2:
            raise DataError(
                f"{what} have shape {array.shape}; shape (rows, {labels}) with a row or more and two labels or more is "
                "needed"
            )
        if array.dtype.kind not in "biu" or array.min() < 0 or array.max() > 1:
            raise DataError(f"{what} ({array.dtype}, {array.min()} to {array.max()}) are not all 0 or 1")
        matrices.append(array.astype(numpy.int64))
    if len(matrices[0]) != len(matrices[1]):
        raise DataError(f"{len(matrices[0])} predictions for {len(matrices[1])} references; there must be one each")
    return matrices[0], matrices[1]
