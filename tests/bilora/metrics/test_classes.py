"""Values of the measures against formulas written out here and against scikit-learn's and scipy's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bilora.metrics.classes import MEASURES

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
