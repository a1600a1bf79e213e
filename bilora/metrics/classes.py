"""The official metrics of GLUE: of classes, and of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bilora.errors import DataError, SettingsError
from bilora.metrics.metric import INDEX, NUMBER, Compute, Metric, Undefined
from bilora.settings.lookup import find

if TYPE_CHECKING:
    from bilora.tasks.catalog import Task

Array = numpy.ndarray[Any, Any]
Numbers = Sequence[int] | Sequence[float] | Array


def accuracy(predictions: Array, references: Array) -> float:
    """Return the fraction of predictions that equal their reference."""
    return float(sklearn_metrics.accuracy_score(references, predictions))


def f1(predictions: Array, references: Array) -> float:
    """Return ``2 tp / (2 tp + fp + fn)`` of class 1, which is undefined where that is 0/0."""
    # scikit-learn would say 0, or whatever it is given, as of a model that found none of the rows there are.
    if not (predictions == 1).any() and not (references == 1).any():
        raise Undefined("no row is of class 1, neither in the predictions nor in the references")
    return float(sklearn_metrics.f1_score(references, predictions, zero_division=0.0))


def macro_f1(predictions: Array, references: Array) -> float:
    """Return the mean of the f1 of every class that is predicted or a label, each class counting the same."""
    return float(sklearn_metrics.f1_score(references, predictions, average="macro", zero_division=0.0))


def matthews_correlation(predictions: Array, references: Array) -> float:
    """Return the Matthews correlation of classes (R_K of Gorodkin 2004 for more than two)."""
    # scikit-learn gives 0 where one side is constant, with which a bad run could win against a negative one.
    _check_spread(predictions, references, of_classes=True)
    return float(sklearn_metrics.matthews_corrcoef(references, predictions))


def pearson(predictions: Array, references: Array) -> float:
    """Return Pearson's correlation coefficient."""
    return _correlation(stats.pearsonr, predictions, references)


def spearmanr(predictions: Array, references: Array) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank."""
    return _correlation(stats.spearmanr, predictions, references)


@dataclass(frozen=True)
class Measure:
    """How the value of a metric key is computed, and of which tasks."""

    compute: Compute
    regression: bool = False
    most_labels: int | None = None


MEASURES: dict[str, Measure] = {
    "accuracy": Measure(accuracy),
    "f1": Measure(f1, most_labels=2),
    "macro_f1": Measure(macro_f1),
    "matthews_correlation": Measure(matthews_correlation),
    "pearson": Measure(pearson, regression=True),
    "spearmanr": Measure(spearmanr, regression=True),
}


def task_metric(task: Task) -> Metric:
    """Return the metric of a task; a key that is unknown or does not fit the task's labels is refused."""
    measures = {key: _measure(key, task).compute for key in task.metric_keys}
    return Metric(task.name, measures, NUMBER if task.is_regression else INDEX, convert=numpy.asarray)


def compute_metrics(task: Task, predictions: Numbers, references: Numbers) -> dict[str, float | None]:
    """Return the metrics of a task by key, the headline one first."""
    predicted = _as_labels(predictions, task, "predictions")
    labels = _as_labels(references, task, "references")
    if len(predicted) != len(labels):
        raise DataError(f"{len(predicted)} predictions for {len(labels)} references; there must be one each")
    return dict(task_metric(task).compute(predictions=predicted, references=labels))


def class_table(predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, Any]]:
    """Return ``label``, ``precision``, ``recall``, ``f1`` and ``support`` (rows that are of it) of every class by name.

    A share of nothing is None: the precision of a class that no row gets, the recall of one that no row is of.
    """
    names = sorted({*predictions, *references})
    settings = {"labels": names, "average": None, "zero_division": numpy.nan}
    columns = sklearn_metrics.precision_recall_fscore_support(list(references), list(predictions), **settings)
    keys = ("label", "precision", "recall", "f1", "support")
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    # NaN is the one value that differs from itself.
    return [dict(zip(keys, (value if value == value else None for value in row), strict=True)) for row in rows]


def _measure(key: str, task: Task) -> Measure:
    measure = find(MEASURES, key, kind="metric")
    too_many = measure.most_labels is not None and task.num_labels > measure.most_labels
    if measure.regression != task.is_regression or too_many:
        fitting = [name for name, row in MEASURES.items() if row.regression == task.is_regression]
        labels = "numbers" if task.is_regression else f"{task.num_labels} classes"
        raise SettingsError(
            f"metric {key!r} does not fit task {task.name!r} with {labels}; metrics of such labels: "
            f"{', '.join(fitting)} (f1 with two classes only)"
        )
    return measure


def _as_labels(values: Numbers, task: Task, what: str) -> Array:
    array = numpy.asarray(values)
    # numpy would compare a column with a row by every pair, and score that.
    if array.ndim != 1 or not len(array):
        cure = "squeeze the last axis" if task.is_regression else "take the argmax of the logits"
        raise DataError(f"{what} have shape {array.shape}; shape (n,) with n > 0 is needed ({cure})")
    if task.is_regression:
        return array.astype(numpy.float64)
    # Fractions would be cut to whole numbers below, without a word.
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= task.num_labels:
        raise DataError(
            f"{what} ({array.dtype}, {array.min()} to {array.max()}) are not class indices of {task.name}; "
            f"allowed: whole numbers from 0 to {task.num_labels - 1}"
        )
    return array.astype(numpy.int64)


def _check_spread(predictions: Array, references: Array, *, of_classes: bool = False) -> None:
    for what, values in (("predictions", predictions), ("references", references)):
        if len(values) < 2:
            raise Undefined(f"there is one row of {what}; two are needed")
        if not numpy.isfinite(values).all():
            raise Undefined(f"the {what} are not all finite")
        # By equality: rounding can give a constant side a variance that is not quite zero.
        if (values == values[0]).all():
            # An index says nothing to anybody.
            raise Undefined(f"the {what} are all {'of one class' if of_classes else values[0]}")


def _correlation(measure: Callable[[Array, Array], Any], predictions: Array, references: Array) -> float:
    _check_spread(predictions, references)
    with warnings.catch_warnings(), numpy.errstate(all="ignore"):
        # scipy warns when the spread is so small that rounding decides the value: no value to choose by.
        warnings.simplefilter("error", stats.NearConstantInputWarning)
        try:
            value = float(measure(predictions, references).statistic)
        except stats.NearConstantInputWarning as error:
            raise Undefined("one side is so nearly constant that rounding decides the value") from error
    if not numpy.isfinite(value):
        raise Undefined("the values are too large to compute with")
    return value
