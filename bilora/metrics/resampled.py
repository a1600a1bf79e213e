"""The metrics of classes and of labels out of counts, for resampling: hundreds of times as fast as scikit-learn's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from bilora.metrics.metric import Undefined

Array = numpy.ndarray[Any, Any]


def _accuracy(matrix: Array) -> float:
    return float(matrix.trace() / matrix.sum())


def _f1(matrix: Array) -> float:
    whole = matrix[1].sum() + matrix[:, 1].sum()
    if not whole:
        raise Undefined("no row is of class 1, neither in the predictions nor in the references")
    return float(2 * matrix[1, 1] / whole)


def _macro_f1(matrix: Array) -> float:
    whole = matrix.sum(0) + matrix.sum(1)
    there = whole > 0
    return float((2 * matrix.diagonal()[there] / whole[there]).mean())


def _matthews_correlation(matrix: Array) -> float:
    # R_K of Gorodkin 2004, equation 8.
    rows, predicted, true = float(matrix.sum()), matrix.sum(0).astype(float), matrix.sum(1).astype(float)
    spread = (rows**2 - predicted @ predicted) * (rows**2 - true @ true)
    if not spread:
        raise Undefined("the predictions or the references are all of one class")
    return float((matrix.trace() * rows - predicted @ true) / math.sqrt(spread))


# By the keys of bilora.metrics.classes.MEASURES: of a matrix (label, prediction) of counts.
OF_MATRIX: dict[str, Callable[[Array], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews_correlation": _matthews_correlation,
}


def class_score(key: str, answers: Array, labels: Array) -> Callable[[Array], float]:
    """Return a metric of class indices as a function of row numbers, which may repeat."""
    # Without the classes that nobody asks for: the matrix of ten thousand would not fit. 0 and 1 keep their places.
    classes, places = numpy.unique(numpy.concatenate([[0, 1], labels, answers]), return_inverse=True)
    size, (true, given) = len(classes), numpy.split(places[2:], 2)
    cells = true * size + given

    def score(rows: Array) -> float:
        return OF_MATRIX[key](numpy.bincount(cells[rows], minlength=size**2).reshape(size, size))

    return score


def label_score(key: str, answers: Array, labels: Array) -> Callable[[Array], float]:
    """Return a metric of rows of 0 and 1 per label as a function of row numbers, which may repeat."""
    both, whole, same = answers & labels, answers + labels, (answers == labels).all(axis=1)

    def score(rows: Array) -> float:
        if key == "subset_accuracy":
            return float(same[rows].mean())
        found, counted = both[rows].sum(0), whole[rows].sum(0)  # 2 tp / (2 tp + fp + fn) is 2 found / counted
        if not counted.any():
            raise Undefined("no row has a label, neither in the predictions nor in the references")
        if key == "micro_f1":
            return float(2 * found.sum() / counted.sum())
        there = counted > 0
        return float((2 * found[there] / counted[there]).mean())

    return score
