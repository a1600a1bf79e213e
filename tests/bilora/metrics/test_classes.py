"""The metrics of classes and numbers: against formulas written out here, and scikit-learn's and scipy's own."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bilora.errors import DataError, SettingsError
from bilora.metrics.classes import MEASURES, compute_metrics, task_metric
from bilora.metrics.metric import UndefinedMetricWarning
from bilora.metrics.monitor import is_better
from bilora.tasks.catalog import TASKS, Task

Array = numpy.ndarray[Any, Any]


def accuracy(predictions: Array, references: Array) -> float:
    return float((predictions == references).mean())


def f1(predictions: Array, references: Array) -> float:
    hits = ((predictions == 1) & (references == 1)).sum()
    precision, recall = hits / (predictions == 1).sum(), hits / (references == 1).sum()
    return float(2 * precision * recall / (precision + recall))


def matthews_correlation(predictions: Array, references: Array) -> float:
    """R_K from one-hot covariances (Gorodkin 2004, equation 8); for two classes Matthews' own value."""
    labels = numpy.arange(max(predictions.max(), references.max()) + 1)
    x, y = ((each[:, None] == labels).astype(float) for each in (predictions, references))

    def covariance(a: Array, b: Array) -> float:
        return float(((a - a.mean(0)) * (b - b.mean(0))).sum())

    return float(covariance(x, y) / (covariance(x, x) * covariance(y, y)) ** 0.5)


def pearson(predictions: Array, references: Array) -> float:
    x, y = predictions - predictions.mean(), references - references.mean()
    return float((x * y).sum() / ((x * x).sum() * (y * y).sum()) ** 0.5)


def spearmanr(predictions: Array, references: Array) -> float:
    def ranks(values: Array) -> Array:
        return numpy.array([(values < each).sum() + ((values == each).sum() + 1) / 2 for each in values])

    return pearson(ranks(predictions), ranks(references))


def macro_f1(predictions: Array, references: Array) -> float:
    values = []
    for each in set(predictions.tolist()) | set(references.tolist()):
        hits = ((predictions == each) & (references == each)).sum()
        values.append(2 * hits / ((predictions == each).sum() + (references == each).sum()))
    return float(sum(values) / len(values))


BY_HAND = {each.__name__: each for each in (accuracy, f1, macro_f1, matthews_correlation, pearson, spearmanr)}
OFFICIAL: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": lambda predictions, references: sklearn_metrics.accuracy_score(references, predictions),
    "f1": lambda predictions, references: sklearn_metrics.f1_score(references, predictions),
    "macro_f1": lambda predictions, references: sklearn_metrics.f1_score(references, predictions, average="macro"),
    "matthews_correlation": lambda predictions, references: sklearn_metrics.matthews_corrcoef(references, predictions),
    "pearson": lambda predictions, references: stats.pearsonr(predictions, references)[0],
    "spearmanr": lambda predictions, references: stats.spearmanr(predictions, references)[0],
}


def random_values(key: str, seed: int) -> tuple[Array, Array]:
    numbers = numpy.random.default_rng(seed)
    if MEASURES[key].regression:
        wanted = numbers.integers(0, 26, 83) / 5  # with ties, as in stsb
        return numpy.round(wanted + numbers.normal(0, 2, 83), 1), wanted
    classes = MEASURES[key].most_labels or 2 + seed % 2
    return numbers.integers(0, classes, 83), numbers.choice(classes, 83, p=[0.7, 0.3, 0.0][:classes])


@pytest.mark.parametrize("reference", [BY_HAND, OFFICIAL], ids=["by hand", "official"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("key", MEASURES)
def test_random_values(key: str, seed: int, reference: dict[str, Callable[[Array, Array], float]]) -> None:
    predictions, references = random_values(key, seed)
    value = MEASURES[key].compute(predictions, references)
    assert type(value) is float
    assert value == pytest.approx(reference[key](predictions, references), abs=1e-12)


def test_f1_counts_class_one_as_positive() -> None:
    predictions, references = numpy.array([1, 1, 1, 0]), numpy.array([1, 1, 0, 0])
    assert MEASURES["f1"].compute(predictions, references) == pytest.approx(0.8, abs=1e-12)
    assert MEASURES["f1"].compute(1 - predictions, 1 - references) == pytest.approx(2 / 3, abs=1e-12)


@pytest.mark.parametrize("key", ["matthews_correlation", "pearson", "spearmanr"])
def test_correlations_change_sign_with_the_predictions(key: str) -> None:
    predictions, references = random_values(key, 4)
    flipped = predictions.max() - predictions
    value = MEASURES[key].compute(predictions, references)
    assert MEASURES[key].compute(flipped, references) == pytest.approx(-value, abs=1e-12)


COLA, MRPC, STSB, MNLI = TASKS["cola"], TASKS["mrpc"], TASKS["stsb"], TASKS["mnli"]
F1_ONLY = Task("f1_only", ("text",), ("no", "yes"), metric="f1")


def random_labels(task: Task, *, seed: int, rows: int = 57) -> tuple[Array, Array]:
    numbers = numpy.random.default_rng(seed)
    if task.is_regression:
        wanted = numbers.integers(0, 26, rows) / 5  # with ties, as in stsb
        return wanted + numbers.normal(0, 1.5, rows), wanted
    classes, others = numbers.integers(0, task.num_labels, (2, rows))
    return numpy.where(numbers.random(rows) < 0.6, classes, others), classes


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_all_its_metrics_in_order(name: str) -> None:
    values = compute_metrics(TASKS[name], *random_labels(TASKS[name], seed=0))
    assert tuple(values) == TASKS[name].metric_keys
    assert all(type(value) is float and 0 < value < 1 for value in values.values())


@pytest.mark.parametrize("name", TASKS)
def test_batches_give_the_same_as_one_call_and_the_metric_can_be_used_again(name: str) -> None:
    predictions, references = random_labels(TASKS[name], seed=1)
    metric = task_metric(TASKS[name])
    whole = compute_metrics(TASKS[name], predictions, references)
    for _ in range(2):
        for low in range(0, 57, 20):
            metric.add_batch(predictions=predictions[low : low + 20], references=references[low : low + 20])
        assert metric.compute() == whole
    assert metric.compute(predictions=predictions, references=references) == whole


@pytest.mark.parametrize(
    ("values", "task"), [((1, 0), COLA), ([1, 0], COLA), (numpy.array([1, 0], dtype=numpy.int32), COLA)]
)
def test_forms_of_input(values: list[int], task: Task) -> None:
    assert compute_metrics(task, values, [1, 0]) == {"matthews_correlation": 1.0}


def test_numbers_may_be_whole_or_single_precision() -> None:
    single = numpy.array([0.5, 1.0, 4.0], dtype=numpy.float32)
    assert compute_metrics(STSB, single, [0, 1, 4])["spearmanr"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("task", "predictions", "references", "text"),
    [
        (COLA, [1, 0], [1], "2 predictions for 1 references"),
        (COLA, [], [], r"predictions have shape \(0,\)"),
        (COLA, [[0.1, 0.9]], [1], r"predictions have shape \(1, 2\).*argmax"),
        (STSB, [[0.1], [0.2]], [1.0, 2.0], r"predictions have shape \(2, 1\).*squeeze"),
        (COLA, [0.2, 0.9], [0, 1], r"predictions \(float64, 0.2 to 0.9\) are not class indices of cola"),
        (
            COLA,
            [0, 1],
            [0, -1],
            "references .* are not class indices of cola; allowed: whole numbers from 0 to 1",
        ),
        (MNLI, [0, 3], [0, 1], "predictions .* from 0 to 2"),
    ],
)
def test_input_that_cannot_be_scored(task: Task, predictions: list[Any], references: list[Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        compute_metrics(task, predictions, references)


@pytest.mark.parametrize(
    ("task", "predictions", "references", "undefined"),
    [
        (COLA, [1, 1, 1], [0, 1, 1], {"matthews_correlation": "predictions are all 1"}),
        (COLA, [0, 1, 1], [0, 0, 0], {"matthews_correlation": "references are all 0"}),
        (COLA, [1], [1], {"matthews_correlation": "one row of predictions"}),
        (STSB, [2.0, 2.0], [1.0, 3.0], {"pearson": "predictions are all 2.0", "spearmanr": "are all 2.0"}),
        (STSB, [1.0, 3.0], [0.1, 0.1], {"pearson": "references are all 0.1", "spearmanr": "are all 0.1"}),
        (STSB, [1.0], [1.0], {"pearson": "one row", "spearmanr": "one row"}),
        (STSB, [1.0, math.nan], [1.0, 2.0], {"pearson": "not all finite", "spearmanr": "not all finite"}),
        (STSB, [1.0, math.inf], [1.0, 2.0], {"pearson": "not all finite", "spearmanr": "not all finite"}),
        (STSB, [1.0, 1.0 + 1e-15, 1.0], [1.0, 2.0, 4.0], {"pearson": "nearly constant"}),
        (F1_ONLY, [0, 0], [0, 0], {"f1": "no row is of class 1"}),
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


def global_state() -> str:
    with numpy.printoptions(threshold=1000):
        return f"{random.getstate()} {numpy.random.get_state()}"


def test_the_global_random_state_is_left_alone() -> None:
    random.seed(0)
    numpy.random.seed(0)
    before = global_state()
    compute_metrics(COLA, [0, 1], [0, 1])
    assert global_state() == before


def test_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    import evaluate.config

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", f"{tmp_path}/cache")
    metrics = [task_metric(COLA), task_metric(COLA)]  # two at once, as in two runs
    for metric in metrics:
        metric.add_batch(predictions=[0, 1], references=[0, 1])
    assert [metric.compute() for metric in metrics] == [{"matthews_correlation": 1.0}] * 2
    assert list(tmp_path.iterdir()) == []  # type: ignore[attr-defined]


def test_a_constant_prediction_never_beats_a_bad_one() -> None:
    with pytest.warns(UndefinedMetricWarning):
        constant = compute_metrics(COLA, [1, 1, 1, 1], [0, 1, 0, 1])["matthews_correlation"]
    bad = compute_metrics(COLA, [1, 0, 1, 1], [0, 1, 0, 1])["matthews_correlation"]
    assert bad is not None and bad < 0 and not is_better(constant, bad, greater_is_better=True)
    # the official function gives 0 there, which would win
    assert sklearn_metrics.matthews_corrcoef([0, 1, 0, 1], [1, 1, 1, 1]) == 0.0 > bad


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (
            Task("t", ("text",), ("no", "yes"), metric="acuracy"),
            "metric 'acuracy' is unknown.*Did you mean 'accuracy'",
        ),
        (
            Task("t", ("text",), ("no", "yes"), metric="pearson"),
            "'pearson' does not fit task 't' with 2 classes",
        ),
        (
            Task("t", ("text",), None, metric="accuracy"),
            "with numbers; metrics of such labels: pearson, spearmanr",
        ),
        (Task("t", ("text",), ("a", "b", "c"), metric="f1"), "'f1' does not fit task 't' with 3 classes"),
    ],
)
def test_metrics_that_do_not_fit(task: Task, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        task_metric(task)
