"""The metrics of a task, offline, and which of two values is the better one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy

from bilora.errors import DataError

if TYPE_CHECKING:
    from bilora.tasks.catalog import Task

if TYPE_CHECKING:
    import evaluate

Numbers = Sequence[int] | Sequence[float] | numpy.ndarray[Any, Any]


class UndefinedMetricWarning(UserWarning):
    """A metric has no value for these predictions and is given as None."""


def task_metric(task: Task) -> evaluate.Metric:
    """Return the ``evaluate.Metric`` of a task, which asks no hub and writes no file.

    Args:
        task: Its ``metric_keys`` say what the metric computes.

    Returns:
        A metric with the whole interface of the evaluate library (``add_batch``, ``compute``, ...).

    Raises:
        SettingsError: A metric key is unknown or does not fit the task's labels.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> task_metric(TASKS["mrpc"]).compute(predictions=[1, 0, 1, 1], references=[1, 0, 0, 1])
        {'accuracy': 0.75, 'f1': 0.8}
    """
    # evaluate takes seconds to import, so a look at the tables or a wrong setting does not pay for it.
    from bilora.metrics.classes import TaskMetric

    return TaskMetric(task)


def compute_metrics(task: Task, predictions: Numbers, references: Numbers) -> dict[str, float | None]:
    """Return the metrics of a task by key, the headline one first.

    Args:
        task: Its ``metric_keys`` say what is computed.
        predictions: One a row, shape ``(n,)``: class indices, or numbers for regression.
        references: The labels, shape ``(n,)``.

    Returns:
        Values as fractions of one; None where the metric is undefined, with an ``UndefinedMetricWarning``.

    Raises:
        DataError: There is no row, the lengths differ, or the values are no class indices of this task.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> compute_metrics(TASKS["cola"], [1, 0, 1, 0], [1, 0, 1, 0])
        {'matthews_correlation': 1.0}
    """
    predicted = _as_labels(predictions, task, "predictions")
    wanted = _as_labels(references, task, "references")
    if len(predicted) != len(wanted):
        raise DataError(f"{len(predicted)} predictions for {len(wanted)} references; there must be one each")
    values: dict[str, float | None] = task_metric(task).compute(predictions=predicted, references=wanted)
    return values


def is_better(new: float | None, best: float | None, *, greater_is_better: bool) -> bool:
    """Return whether ``new`` is strictly better than ``best``; an undefined value never is.

    Args:
        new: The value of now; None or NaN if undefined.
        best: The best so far; None or NaN if there is none yet.
        greater_is_better: Which way the metric goes.

    Example:
        >>> is_better(0.8, 0.7, greater_is_better=True), is_better(None, 0.7, greater_is_better=True)
        (True, False)
        >>> is_better(0.1, None, greater_is_better=True)
        True
    """
    if new is None or math.isnan(new):
        return False
    if best is None or math.isnan(best):
        return True
    return new > best if greater_is_better else new < best


def _as_labels(values: Numbers, task: Task, what: str) -> numpy.ndarray[Any, Any]:
    array = numpy.asarray(values)
    if array.ndim != 1 or not len(array):
        cure = "squeeze the last axis" if task.is_regression else "take the argmax of the logits"
        raise DataError(f"{what} have shape {array.shape}; shape (n,) with n > 0 is needed ({cure})")
    if task.is_regression:
        return array.astype(numpy.float64)
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= task.num_labels:
        raise DataError(
            f"{what} ({array.dtype}, {array.min()} to {array.max()}) are not class indices of {task.name}; "
            f"allowed: whole numbers from 0 to {task.num_labels - 1}"
        )
    return array.astype(numpy.int64)
