"""Metrics out of counts against those of scikit-learn, on resampled rows."""

import numpy
import pytest

from bilora.metrics.classes import MEASURES
from bilora.metrics.metric import Undefined
from bilora.metrics.multilabel import MULTILABEL_MEASURES
from bilora.metrics.resampled import OF_MATRIX, class_score, label_score


@pytest.mark.parametrize("key", OF_MATRIX)
@pytest.mark.parametrize("classes", [2, 7])
def test_class_scores_are_those_of_scikit_learn(key: str, classes: int) -> None:
    if key == "f1" and classes > 2:
        pytest.skip("f1 is of two classes")
    generator = numpy.random.default_rng(classes)
    labels = generator.integers(classes, size=40)
    answers = numpy.where(generator.random(40) < 0.6, labels, generator.integers(classes, size=40))
    # A class in the middle that nobody asks for must not move the others.
    labels, answers = labels + 100 * (labels > 2), answers + 100 * (answers > 2)
    score = class_score(key, answers, labels)
    for rows in generator.integers(40, size=(5, 40)):
        assert score(rows) == pytest.approx(MEASURES[key].compute(answers[rows], labels[rows]), abs=1e-12)


@pytest.mark.parametrize("key", MULTILABEL_MEASURES)
def test_label_scores_are_those_of_scikit_learn(key: str) -> None:
    generator = numpy.random.default_rng(0)
    answers, labels = (generator.integers(2, size=(30, 4)) for _ in range(2))
    answers[:, 3] = labels[:, 3] = 0
    score = label_score(key, answers, labels)
    for rows in generator.integers(30, size=(5, 30)):
        assert score(rows) == pytest.approx(MULTILABEL_MEASURES[key](answers[rows], labels[rows]), abs=1e-12)


def test_what_is_undefined_there_is_undefined_here() -> None:
    zeros, rows = numpy.zeros(3, dtype=int), numpy.arange(3)
    for key in ("f1", "matthews_correlation"):
        with pytest.raises(Undefined):
            class_score(key, zeros, zeros)(rows)
    with pytest.raises(Undefined):
        label_score("micro_f1", zeros[:, None], zeros[:, None])(rows)
