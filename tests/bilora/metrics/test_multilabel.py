"""Multi-label measures against counts written out here and against scikit-learn on each label alone."""

from dataclasses import dataclass
from typing import Any

import numpy
import pytest
from sklearn import metrics as sklearn_metrics

from bilora.errors import DataError, SettingsError
from bilora.metrics.metric import UndefinedMetricWarning
from bilora.metrics.multilabel import MULTILABEL_MEASURES, compute_multilabel, label_table, multilabel_metric

Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Toy:
    label_names: tuple[str, ...] = ("red", "big", "old")
    name: str = "toy"
    metric_keys: tuple[str, ...] = tuple(MULTILABEL_MEASURES)


def random_labels(seed: int, *, rows: int = 61, labels: int = 5) -> tuple[Array, Array]:
    numbers = numpy.random.default_rng(seed)
    references = numbers.random((rows, labels)) < numpy.linspace(0.1, 0.7, labels)
    return references ^ (numbers.random((rows, labels)) < 0.2), references


PREDICTIONS = [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
REFERENCES = [[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_by_hand() -> None:
    """Right, wrong and missed: red 1, 1, 1; big 2, 0, 0; old 0, 1, 0. All right in the first two rows of four."""
    assert compute_multilabel(Toy(), PREDICTIONS, REFERENCES) == {
        "micro_f1": pytest.approx(2 * 3 / (2 * 3 + 2 + 1)),
        "macro_f1": pytest.approx((2 / 4 + 1 + 0) / 3),
        "subset_accuracy": 0.5,
    }
    assert label_table(PREDICTIONS, REFERENCES, Toy.label_names) == [
        {"label": "red", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
        {"label": "big", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2},
        {"label": "old", "precision": 0.0, "recall": None, "f1": 0.0, "support": 0},
    ]


@pytest.mark.parametrize("seed", range(6))
def test_random_values(seed: int) -> None:
    """Micro F1 is that of all cells in one column; macro F1 and the table are those of each column alone."""
    predictions, references = random_labels(seed)
    values = compute_multilabel(Toy(tuple("abcde")), predictions, references)
    columns = list(zip(references.T, predictions.T, strict=True))
    by_label = [sklearn_metrics.f1_score(label, answer) for label, answer in columns]
    micro = sklearn_metrics.f1_score(references.ravel(), predictions.ravel())
    expected = [micro, numpy.mean(by_label), (predictions == references).all(axis=1).mean()]
    assert list(values.values()) == pytest.approx(expected, abs=1e-12)
    for row, f1, (label, answer) in zip(label_table(predictions, references, "abcde"), by_label, columns, strict=True):
        both = (label & answer).sum()
        measures = {"precision": both / answer.sum(), "recall": both / label.sum(), "f1": f1, "support": label.sum()}
        assert {name: row[name] for name in measures} == pytest.approx(measures, abs=1e-12)


def test_a_label_that_nobody_has_or_gets_leaves_the_mean_alone() -> None:
    padded = [[[*row, 0] for row in rows] for rows in (PREDICTIONS, REFERENCES)]
    task = Toy(("red", "big", "old", "never"))
    assert compute_multilabel(task, *padded) == compute_multilabel(Toy(), PREDICTIONS, REFERENCES)
    assert label_table(*padded, task.label_names)[3] == {
        "label": "never", "precision": None, "recall": None, "f1": None, "support": 0
    }  # fmt: skip


def test_no_label_anywhere_is_undefined() -> None:
    with pytest.warns(UndefinedMetricWarning, match="f1 of toy is undefined: no row has a label") as warned:
        values = compute_multilabel(Toy(), [[0, 0, 0]], [[0, 0, 0]])
    assert values == {"micro_f1": None, "macro_f1": None, "subset_accuracy": 1.0}
    assert len(warned) == 2


def test_an_unknown_metric() -> None:
    with pytest.raises(SettingsError, match="metric 'micro_f' is unknown.*Did you mean 'micro_f1'"):
        multilabel_metric(Toy(metric_keys=("micro_f",)))


@pytest.mark.parametrize(
    ("predictions", "references", "labels", "text"),
    [
        ([[0, 1]], [[0, 1, 0]], "abc", r"predictions have shape \(1, 2\); shape \(rows, 3\)"),
        ([0, 1], [0, 1], "ab", r"predictions have shape \(2,\)"),
        ([], [], "ab", r"predictions have shape \(0,\)"),
        ([[1]], [[1]], "a", "two labels or more"),
        ([[0, 1]], [[0, 2]], "ab", r"references \(int64, 0 to 2\) are not all 0 or 1"),
        ([[0.2, 0.9]], [[0, 1]], "ab", r"predictions \(float64, 0.2 to 0.9\) are not all 0 or 1"),
        ([[0, 1]], [[0, 1], [0, 1]], "ab", "1 predictions for 2 references"),
    ],
)
def test_input_that_cannot_be_scored(predictions: Any, references: Any, labels: str, text: str) -> None:
    with pytest.raises(DataError, match=text):
        compute_multilabel(Toy(tuple(labels)), predictions, references)
