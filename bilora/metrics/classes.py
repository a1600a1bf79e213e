"""The official GLUE metrics as one ``evaluate.Metric`` over a table of measures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import evaluate
import numpy
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bilora.errors import SettingsError
from bilora.metrics.task_metrics import UndefinedMetricWarning
from bilora.settings.lookup import find

if TYPE_CHECKING:
    from bilora.tasks.catalog import Task

Array = numpy.ndarray[Any, Any]


class Undefined(ArithmeticError):
    """A measure has no value; the text says why."""


def accuracy(predictions: Array, references: Array) -> float:
    """Return the fraction of predictions that equal their reference.

    Example:
        >>> accuracy(numpy.array([1, 0]), numpy.array([1, 1]))
        0.5
    """
    return float(sklearn_metrics.accuracy_score(references, predictions))


def f1(predictions: Array, references: Array) -> float:
    """Return ``2 tp / (2 tp + fp + fn)`` of class 1.

    Raises:
        Undefined: Class 1 is neither predicted nor wanted, so that the fraction is 0/0.

    Example:
        >>> f1(numpy.array([1, 1, 0]), numpy.array([1, 0, 0])).__round__(4)
        0.6667
    """
    if not (predictions == 1).any() and not (references == 1).any():
        raise Undefined("no row is of class 1, neither in the predictions nor in the references")
    return float(sklearn_metrics.f1_score(references, predictions, zero_division=0.0))


def macro_f1(predictions: Array, references: Array) -> float:
    """Return the mean of the f1 of every class that is predicted or wanted, each class counting the same.

    Example:
        >>> macro_f1(numpy.array([1, 1, 0]), numpy.array([1, 0, 0])).__round__(4)
        0.6667
    """
    return float(sklearn_metrics.f1_score(references, predictions, average="macro", zero_division=0.0))


def matthews_correlation(predictions: Array, references: Array) -> float:
    """Return the Matthews correlation of classes (R_K of Gorodkin 2004 for more than two).

    Raises:
        Undefined: One side is constant, so that its variance is zero. scikit-learn gives 0 there, which a
            bad run could win with against a negative one.

    Example:
        >>> matthews_correlation(numpy.array([1, 0, 1, 0]), numpy.array([0, 1, 0, 1]))
        -1.0
    """
    _check_spread(predictions, references)
    return float(sklearn_metrics.matthews_corrcoef(references, predictions))


def pearson(predictions: Array, references: Array) -> float:
    """Return Pearson's correlation coefficient.

    Raises:
        Undefined: One side is constant, has a single row, or is not finite.

    Example:
        >>> pearson(numpy.array([1.0, 2.0]), numpy.array([3.0, 5.0])).__round__(12)
        1.0
    """
    _check_spread(predictions, references)
    return _correlation(stats.pearsonr, predictions, references)


def spearmanr(predictions: Array, references: Array) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank.

    Raises:
        Undefined: One side is constant, has a single row, or is not finite.

    Example:
        >>> spearmanr(numpy.array([1.0, 2.0, 9.0]), numpy.array([3.0, 5.0, 6.0])).__round__(12)
        1.0
    """
    _check_spread(predictions, references)
    return _correlation(stats.spearmanr, predictions, references)


@dataclass(frozen=True)
class Measure:
    """One metric key: how it is computed and of which tasks.

    Example:
        >>> MEASURES["f1"].most_labels
        2
    """

    compute: Callable[[Array, Array], float]
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


class TaskMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """All metrics of one task; undefined ones are None, with an ``UndefinedMetricWarning``.

    Args:
        task: Its ``metric_keys`` are keys of ``MEASURES``.

    Raises:
        SettingsError: A key is unknown or does not fit the task's labels.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> metric = TaskMetric(TASKS["sst2"])
        >>> metric.add_batch(predictions=[1, 1], references=[1, 0])
        >>> metric.add_batch(predictions=[0, 0], references=[0, 0])
        >>> metric.compute()
        {'accuracy': 0.75}
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.measures = {key: _measure(key, task) for key in task.metric_keys}
        # Values are kept in memory: cache files would collide when two runs score at once.
        # The seed is given because evaluate would take it from numpy's global state.
        super().__init__(config_name=task.name, keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root)  # evaluate would make an empty folder in the user's cache here

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float64" if self.task.is_regression else "int64")
        return evaluate.MetricInfo(
            description=f"{', '.join(self.measures)} of {self.task.name}",
            citation="",
            inputs_description="predictions and references: one number a row",
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | None]:
        predicted, wanted = numpy.asarray(predictions), numpy.asarray(references)
        return {key: self._value(key, predicted, wanted) for key in self.measures}

    def _value(self, key: str, predictions: Array, references: Array) -> float | None:
        try:
            return self.measures[key].compute(predictions, references)
        except Undefined as reason:
            text = f"{key} of {self.task.name} is undefined: {reason}"
            warnings.warn(text, UndefinedMetricWarning, stacklevel=2)
            return None


def _measure(key: str, task: Task) -> Measure:
    measure = find(MEASURES, key, kind="metric")
    too_many = measure.most_labels is not None and task.num_labels > measure.most_labels
    if measure.regression != task.is_regression or too_many:
        fits = [name for name, each in MEASURES.items() if each.regression == task.is_regression]
        labels = "numbers" if task.is_regression else f"{task.num_labels} classes"
        raise SettingsError(
            f"metric {key!r} does not fit task {task.name!r} with {labels}; metrics of such labels: "
            f"{', '.join(fits)} (f1 with two classes only)"
        )
    return measure


def _check_spread(predictions: Array, references: Array) -> None:
    for what, values in (("predictions", predictions), ("references", references)):
        if len(values) < 2:
            raise Undefined(f"there is one row of {what}; two are needed")
        if not numpy.isfinite(values).all():
            raise Undefined(f"the {what} are not all finite")
        if (values == values[0]).all():
            raise Undefined(f"the {what} are all {values[0]}")


def _correlation(measure: Callable[[Array, Array], Any], predictions: Array, references: Array) -> float:
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
