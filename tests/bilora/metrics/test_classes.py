"""The metrics of classes and numbers, against formulas written out here."""

import math
import random
import warnings
from pathlib import Path
from typing import Any

import evaluate.config
import numpy
import pytest

from bilora.errors import DataError, SettingsError
from bilora.metrics.classes import MEASURES, compute_metrics, task_metric
from bilora.metrics.metric import UndefinedMetricWarning
from bilora.tasks.catalog import TASKS, Task

Array = numpy.ndarray[Any, Any]


def accuracy(predictions: Array, references: Array) -> float:
    return float((predictions == references).mean())


def f1(predictions: Array, references: Array, label: int = 1) -> float:
    hits = ((predictions == label) & (references == label)).sum()
    return float(2 * hits / ((predictions == label).sum() + (references == label).sum()))


def macro_f1(predictions: Array, references: Array) -> float:
    labels = set(predictions.tolist()) | set(references.tolist())
    return sum(f1(predictions, references, label) for label in labels) / len(labels)


def matthews_correlation(predictions: Array, references: Array) -> float:
    """R_K from one-hot covariances (Gorodkin 2004, equation 8); for two classes Matthews' own value."""
    labels = numpy.arange(max(predictions.max(), references.max()) + 1)
    x, y = ((column[:, None] == labels).astype(float) for column in (predictions, references))

    def covariance(a: Array, b: Array) -> float:
        return float(((a - a.mean(0)) * (b - b.mean(0))).sum())

    return float(covariance(x, y) / (covariance(x, x) * covariance(y, y)) ** 0.5)


def pearson(predictions: Array, references: Array) -> float:
    x, y = predictions - predictions.mean(), references - references.mean()
    return float((x * y).sum() / ((x * x).sum() * (y * y).sum()) ** 0.5)


def spearmanr(predictions: Array, references: Array) -> float:
    def ranks(values: Array) -> Array:
        return numpy.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])

    return pearson(ranks(predictions), ranks(references))


BY_HAND = {measure.__name__: measure for measure in (accuracy, f1, macro_f1, matthews_correlation, pearson, spearmanr)}
COLA, MRPC, STSB, MNLI = TASKS["cola"], TASKS["mrpc"], TASKS["stsb"], TASKS["mnli"]


def random_labels(classes: int | None, seed: int) -> tuple[Array, Array]:
    """Return predictions and references of 57 rows, more than half of them right; numbers without classes."""
    numbers = numpy.random.default_rng(seed)
    if classes is None:
        references = numbers.integers(0, 26, 57) / 5  # with ties, as in stsb
        return numpy.round(references + numbers.normal(0, 1.5, 57), 1), references
    references, others = numbers.integers(0, classes, (2, 57))
    return numpy.where(numbers.random(57) < 0.6, references, others), references


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("key", MEASURES)
def test_random_values(key: str, seed: int) -> None:
    classes = None if MEASURES[key].regression else MEASURES[key].most_labels or 2 + seed % 2
    predictions, references = random_labels(classes, seed)
    value = MEASURES[key].compute(predictions, references)
    assert type(value) is float
    assert value == pytest.approx(BY_HAND[key](predictions, references), abs=1e-12)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_has_all_its_metrics_in_order_and_batches_give_the_same_as_one_call(task: Task) -> None:
    predictions, references = random_labels(None if task.is_regression else task.num_labels, seed=0)
    whole = compute_metrics(task, predictions, references)
    assert tuple(whole) == task.metric_keys
    assert all(type(value) is float and 0 < value < 1 for value in whole.values())
    metric = task_metric(task)
    for _ in range(2):  # it can be used again
        for low in range(0, 57, 20):
            metric.add_batch(predictions=predictions[low : low + 20], references=references[low : low + 20])
        assert metric.compute() == whole


@pytest.mark.parametrize(
    ("task", "predictions", "references", "undefined"),
    [
        (COLA, [1, 1, 1], [0, 1, 1], {"matthews_correlation": "predictions are all of one class"}),
        (COLA, [0, 1, 1], [0, 0, 0], {"matthews_correlation": "references are all of one class"}),
        (COLA, [1], [1], {"matthews_correlation": "one row of predictions"}),
        (STSB, [2.0, 2.0], [1.0, 3.0], {"pearson": "predictions are all 2.0", "spearmanr": "are all 2.0"}),
        (STSB, [1.0, 3.0], [0.1, 0.1], {"pearson": "references are all 0.1", "spearmanr": "are all 0.1"}),
        (STSB, [1.0], [1.0], {"pearson": "one row", "spearmanr": "one row"}),
        (STSB, [1.0, math.nan], [1.0, 2.0], {"pearson": "not all finite", "spearmanr": "not all finite"}),
        (STSB, [1.0, math.inf], [1.0, 2.0], {"pearson": "not all finite", "spearmanr": "not all finite"}),
        (STSB, [1.0, 1.0 + 1e-15, 1.0], [1.0, 2.0, 4.0], {"pearson": "nearly constant"}),
        (MRPC, [0, 0], [0, 0], {"f1": "no row is of class 1"}),
    ],
)
def test_undefined_values_are_none_with_our_warning_alone(
    task: Task, predictions: list[float], references: list[float], undefined: dict[str, str]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = compute_metrics(task, predictions, references)
    assert {key for key, value in values.items() if value is None} == set(undefined)
    assert [warning.category for warning in caught] == [UndefinedMetricWarning] * len(undefined)
    for warning, (key, text) in zip(caught, undefined.items(), strict=True):
        assert str(warning.message).startswith(f"{key} of {task.name} is undefined: ")
        assert text in str(warning.message)


def test_defined_edges_warn_of_nothing() -> None:
    # Warnings are errors here: none of these may leak one from scikit-learn or scipy.
    assert compute_metrics(MRPC, [0, 0], [0, 1]) == {"accuracy": 0.5, "f1": 0.0}
    assert compute_metrics(MRPC, [1, 1], [0, 0]) == {"accuracy": 0.0, "f1": 0.0}
    assert compute_metrics(MRPC, [1], [1]) == {"accuracy": 1.0, "f1": 1.0}
    two = compute_metrics(STSB, [1.0, 2.0], [4.0, 3.0])
    assert list(two.values()) == pytest.approx([-1.0, -1.0], abs=1e-12)


def test_nothing_is_written_or_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", f"{tmp_path}/cache")
    before = random.getstate(), numpy.random.get_state()[1].tolist()
    metrics = [task_metric(COLA), task_metric(COLA)]  # two at once, as in two runs
    for metric in metrics:
        metric.add_batch(predictions=[0, 1], references=[0, 1])
    assert [metric.compute() for metric in metrics] == [{"matthews_correlation": 1.0}] * 2
    assert list(tmp_path.iterdir()) == []
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize(
    ("labels", "metric", "text"),
    [
        (("no", "yes"), "acuracy", "metric 'acuracy' is unknown.*Did you mean 'accuracy'"),
        (("no", "yes"), "pearson", "'pearson' does not fit task 't' with 2 classes"),
        (None, "accuracy", "with numbers; metrics of such labels: pearson, spearmanr"),
        (("a", "b", "c"), "f1", "'f1' does not fit task 't' with 3 classes"),
    ],
)
def test_metrics_that_do_not_fit(labels: tuple[str, ...] | None, metric: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        task_metric(Task("t", ("text",), labels, metric=metric))


@pytest.mark.parametrize(
    ("task", "predictions", "references", "text"),
    [
        (COLA, [1, 0], [1], "2 predictions for 1 references"),
        (COLA, [], [], r"predictions have shape \(0,\)"),
        (COLA, [[0.1, 0.9]], [1], r"predictions have shape \(1, 2\).*argmax"),
        (STSB, [[0.1], [0.2]], [1.0, 2.0], r"predictions have shape \(2, 1\).*squeeze"),
        (COLA, [0.2, 0.9], [0, 1], r"predictions \(float64, 0.2 to 0.9\) are not class indices of cola"),
        (COLA, [0, 1], [0, -1], "references .* are not class indices of cola; allowed: whole numbers from 0 to 1"),
        (MNLI, [0, 3], [0, 1], "predictions .* from 0 to 2"),
    ],
)
def test_input_that_cannot_be_scored(task: Task, predictions: list[Any], references: list[Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        compute_metrics(task, predictions, references)
