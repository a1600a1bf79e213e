"""How far the probabilities that a model gives can be taken at their word."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from scipy import stats

BINS = 10
"""Equal parts of the range from 0 to 1."""


@dataclass(frozen=True)
class Calibration:
    """Answers by their confidence; bins without an answer are left out."""

    confidence: tuple[float, ...]  # mean of each bin
    right: tuple[float, ...]  # share of right answers of each bin
    counts: tuple[int, ...]  # answers of each bin

    @property
    def expected_error(self) -> float:
        """The expected calibration error (Naeini et al. 2015): the mean of ``|right - confidence|`` over answers."""
        gaps = numpy.abs(numpy.subtract(self.right, self.confidence))
        return float(numpy.average(gaps, weights=self.counts))

    @property
    def excess(self) -> float:
        """Mean confidence less the share of right answers; above zero the model is too sure."""
        return float(numpy.average(numpy.subtract(self.confidence, self.right), weights=self.counts))


def calibration(confidence: Sequence[float] | Any, right: Sequence[bool] | Any) -> Calibration | None:
    """Return answers by confidence, in equal bins from 0 to 1; None without an answer."""
    if not len(confidence):
        return None
    sure, hits = numpy.asarray(confidence, dtype=float), numpy.asarray(right, dtype=float)
    means, _, bins = stats.binned_statistic(sure, [sure, hits], bins=BINS, range=(0.0, 1.0))
    # 1.0 itself counts to the last bin.
    counts = numpy.bincount(numpy.minimum(bins, BINS), minlength=BINS + 1)[1:]
    filled = counts > 0
    return Calibration(*(tuple(column[filled].tolist()) for column in (*means, counts)))
