"""How sure one may be that a method is better than another that ran with the same seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from scipy import stats

from bilora.artifacts.scored_on import numbers_in
from bilora.engines.callbacks.files import read_times
from bilora.metrics.metric import Undefined
from bilora.metrics.monitor import is_better
from bilora.tasks.task import AnyTask

DRAWS = 10_000
"""Resamples of a bootstrap over seeds, and the most sign patterns that are counted one by one."""

LEVEL = 0.95
"""Share of the resampled means inside an interval."""

SIGNIFICANT = 0.05

Scores = Mapping[int, float | None]
"""The score of each seed; None where a run has none."""


@dataclass(frozen=True)
class Wilcoxon:
    """A two-sided Wilcoxon signed-rank test.

    Args:
        p_value: The probability, under exchange of the two methods, of a sum of signed ranks as far from zero.
        smallest: The smallest p-value that so many differences can have, ``2 ** (1 - n)``.
    """

    p_value: float
    smallest: float

    @property
    def can_tell(self) -> bool:
        """Whether there are differences enough for a p-value below 0.05."""
        return self.smallest < SIGNIFICANT


def paired_differences(own: Scores, baseline: Scores) -> tuple[float, ...]:
    """Return ``own - baseline`` for the seeds of which both have a score, in the order of the seeds.

    Example:
        >>> paired_differences({0: 0.75, 1: 0.5, 2: None}, {0: 0.5, 1: 0.5, 2: 0.5})
        (0.25, 0.0)
    """
    found = []
    for seed in sorted(set(own) & set(baseline)):
        first, second = own[seed], baseline[seed]
        if first is not None and second is not None:
            found.append(first - second)
    return tuple(found)


def bootstrap_interval(
    differences: Sequence[float], *, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of the mean difference, over seeds (Efron 1979).

    Args:
        differences: One a seed.
        seed: Of the resampling.
        draws: Resamples.
        level: Share of the resampled means inside the interval.

    Returns:
        Lower and upper end; None for less than two differences, of which nothing can be resampled.

    Example:
        >>> bootstrap_interval([0.5, 0.5, 0.5])
        (0.5, 0.5)
    """
    if len(differences) < 2:
        return None
    values = numpy.asarray(differences, dtype=numpy.float64)
    picks = numpy.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    return _percentiles(values[picks].mean(axis=1), level)


def wilcoxon(differences: Sequence[float]) -> Wilcoxon | None:
    """Return the exact test of paired differences; those that are zero are left out (Wilcoxon 1945).

    Up to 13 differences all sign patterns are counted, ties or not; beyond that, patterns are drawn with a fixed seed.

    Args:
        differences: One a seed.

    Returns:
        The test; None without any difference at all.

    Example:
        >>> wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5])
        Wilcoxon(p_value=0.0625, smallest=0.0625)
    """
    if not differences:
        return None
    # Differences of the same size would be ranked apart by the last bit of their subtraction.
    unequal = [rounded for each in differences if (rounded := round(each, 12)) != 0.0]
    if len(unequal) < 2:  # of one alone, both signs are as far from zero
        return Wilcoxon(1.0, 1.0)
    method = stats.PermutationMethod(n_resamples=DRAWS, rng=numpy.random.default_rng(0))
    p_value = float(stats.wilcoxon(unequal, method=method).pvalue)
    return Wilcoxon(p_value, 2.0 ** (1 - len(unequal)))


def row_bootstrap_interval(
    own: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], *, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of the mean difference when seeds and validation rows are both resampled.

    Args:
        own: One sequence a seed: the score on each of the resampled sets of rows, the same sets for every method.
        baseline: The same of the baseline, for the same seeds in the same order.
        seed: Of the resampling of seeds.
        level: Share of the resampled means inside the interval.

    Returns:
        Lower and upper end.

    Example:
        >>> row_bootstrap_interval([[0.5, 1.0]], [[0.5, 1.0]])
        (0.0, 0.0)
    """
    differences = numpy.asarray(own) - numpy.asarray(baseline)  # (seeds, draws)
    seeds, draws = differences.shape
    picks = numpy.random.default_rng(seed).integers(seeds, size=(seeds, draws))
    return _percentiles(numpy.take_along_axis(differences, picks, axis=0).mean(axis=0), level)


def _percentiles(
    means: numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float64]], level: float
) -> tuple[float, float]:
    outside = 50.0 * (1.0 - level)
    low, high = numpy.percentile(means, [outside, 100.0 - outside])
    return float(low), float(high)


ROW_DRAWS = 200
"""Resamples of the validation rows."""


def resampled_scores(
    task: AnyTask, predictions: Sequence[Mapping[str, Any]], *, draws: int = ROW_DRAWS, seed: int = 0
) -> list[float] | None:
    """Return the headline metric on ``draws`` resamples of the rows; equal row numbers and seeds give the same rows.

    Args:
        task: Says what the metric is, and the order of the classes.
        predictions: One mapping a row, with ``label`` and ``prediction``.
        draws: Number of resamples.
        seed: Of the resampling.

    Returns:
        The scores; None where one is undefined, such as a correlation of constant predictions.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> resampled_scores(TASKS["sst2"], [{"label": "positive", "prediction": "positive"}], draws=2)
        [1.0, 1.0]
    """
    score = task.rescored(predictions)
    if score is None:
        return None
    picks = numpy.random.default_rng(seed).integers(len(predictions), size=(draws, len(predictions)))
    try:
        return [score(rows) for rows in picks]
    except Undefined:
        return None


Reached = Sequence[tuple[float, float | None]]
"""Seconds and score of each validation of a run, in order."""


def read_validations(folder: Path, metric: str) -> list[tuple[float, float | None]]:
    """Return seconds and score of each validation of a run.

    Args:
        folder: The run's folder.
        metric: Which of the metrics.
    """
    times = read_times(folder / "times.jsonl")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        (times[line["step"]], numbers.get(metric))
        for line in lines
        if (numbers := numbers_in(line)) is not None and line["step"] in times
    ]


def best_score(reached: Reached, *, greater_is_better: bool) -> float | None:
    """Return the best of the scores, or None where there is none.

    Example:
        >>> best_score([(1.0, 0.5), (2.0, 0.75), (3.0, None)], greater_is_better=True)
        0.75
    """
    best: float | None = None
    for _, score in reached:
        if is_better(score, best, greater_is_better=greater_is_better):
            best = score
    return best


def seconds_to_reach(reached: Reached, target: float, *, greater_is_better: bool) -> float | None:
    """Return the seconds of the first validation at least as good as ``target``, or None.

    Example:
        >>> seconds_to_reach([(1.0, 0.5), (2.0, 0.75)], 0.75, greater_is_better=True)
        2.0
        >>> seconds_to_reach([(1.0, 0.5)], 0.75, greater_is_better=True) is None
        True
    """
    for seconds, score in reached:
        if score is not None and not is_better(target, score, greater_is_better=greater_is_better):
            return seconds
    return None
