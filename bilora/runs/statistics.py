"""How sure one may be that a method is better than another that ran with the same seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
from scipy import stats

from bilora.artifacts.scored_on import numbers_in
from bilora.engines.callbacks.files import read_times
from bilora.files.formats import read_lines
from bilora.metrics.metric import Undefined
from bilora.tasks.task import AnyTask

# Resamples over seeds, and the most sign patterns that are counted one by one.
DRAWS = 10_000
# Resamples of the seeds for each resample of the rows, and resamples of the validation rows.
SEED_DRAWS = 1_000
ROW_DRAWS = 200
# Exchanges of answers that are tried for a p-value over rows.
PERMUTATIONS = 1_000
# Share of the resampled means inside an interval.
LEVEL = 0.95
SIGNIFICANT = 0.05

Interval = tuple[float, float]
Numbers = numpy.ndarray[Any, numpy.dtype[numpy.float64]]
# By seed; None where a run has none.
Scores = Mapping[int, float | None]
# Seconds and score of each validation of a run, in order.
Reached = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Wilcoxon:
    """A two-sided Wilcoxon signed-rank test."""

    # The probability, under exchange of the two methods, of a sum of signed ranks as far from zero.
    p_value: float
    # The smallest p-value that so many differences can have: of 2 ** n patterns of signs, two are the farthest.
    smallest: float

    @property
    def can_tell(self) -> bool:
        """Whether there are differences enough for a p-value below 0.05."""
        return self.smallest < SIGNIFICANT


def paired_differences(scores: Scores, baseline: Scores) -> tuple[float, ...]:
    """Return ``scores - baseline`` for the seeds of which both have a score, in the order of the seeds."""
    pairs = pandas.DataFrame({"score": scores, "baseline": baseline}, dtype=float).dropna().sort_index()
    return tuple((pairs["score"] - pairs["baseline"]).tolist())


def bootstrap_interval(differences: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Return the 95% percentile bootstrap interval of the mean of differences, one per seed (Efron 1979)."""
    # Of one alone all resamples are the same, and the interval would be of no width.
    if len(differences) < 2:
        return None
    # To resample the differences is to resample the pairs: paired=True with one sample less.
    interval = _bootstrap(numpy.asarray(differences, dtype=float), draws=draws, seed=seed).confidence_interval
    return float(interval.low), float(interval.high)


def row_bootstrap_interval(
    scores: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], *, seed: int = 0
) -> Interval:
    """Return the 95% interval of the mean difference when seeds and validation rows are both resampled."""
    return mean_row_interval([numpy.asarray(scores) - numpy.asarray(baseline)], seed=seed)


def mean_row_interval(groups: Sequence[Any], *, seed: int = 0) -> Interval:
    """Return the 95% interval of the mean over groups of such mean differences, each ``(seeds, row draws)``."""
    return middle(mean_row_draws(groups, seed=seed))


def mean_row_draws(groups: Sequence[Any], *, seed: int = 0) -> Numbers:
    """Return resamples of that mean, ``(row draws, seed draws)``."""
    # In a group the same seeds, and the same draws of rows for all of them: what rows are easy for both methods cancels
    # out. Groups have rows and seeds of their own, so each has its own draws.
    means = [
        _bootstrap(numpy.asarray(differences), draws=SEED_DRAWS, seed=seed + place).bootstrap_distribution
        for place, differences in enumerate(groups)
    ]  # of each group (row draws, seed draws)
    return numpy.asarray(numpy.mean(means, axis=0), dtype=numpy.float64)


def middle(draws: Numbers) -> Interval:
    """Return the interval that holds the middle 95% of resamples."""
    low, high = numpy.quantile(draws, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return float(low), float(high)


def interval_over_rows(resampled: Sequence[Sequence[float]], *, seed: int = 0) -> Interval:
    """Return the 95% interval of the mean of scores, or of differences, ``(seeds, row draws)``; of one seed as well.

    Several seeds are resampled too. Of one alone only the rows are, and nothing is said of how another would come out.
    """
    if len(resampled) > 1:
        return mean_row_interval([resampled], seed=seed)
    low, high = numpy.quantile(resampled[0], [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return float(low), float(high)


def row_permutation_test(
    task: AnyTask,
    pairs: Sequence[tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]],
    *,
    draws: int = PERMUTATIONS,
    seed: int = 0,
) -> float | None:
    """Return the two-sided p-value of the mean difference of score under exchange of two methods' answers, row by row.

    Args:
        task: The task of the rows.
        pairs: The predictions of a method and of another one on the same rows, a pair per seed.
        draws: Exchanges that are tried.
        seed: Of the draws.

    Returns:
        The p-value (Noreen 1989), or None where the score is undefined, or not one of rows.
    """
    # Both in one: rows 0 to n - 1 are the answers of the first method, the next n those of the second.
    scores = [task.rescored([*first, *second]) for first, second in pairs]
    defined = [score for score in scores if score is not None]
    if not pairs or len(defined) < len(pairs):
        return None

    def difference(first: Any, second: Any) -> float:
        sides = (first.astype(int), second.astype(int))
        return float(numpy.mean([score(sides[0]) - score(sides[1]) for score in defined]))

    rows = numpy.arange(len(pairs[0][0]))
    try:
        # All seeds at once: they answer the same rows, which are no new evidence with each of them.
        test = stats.permutation_test(
            (rows, rows + len(rows)),
            difference,
            permutation_type="samples",
            vectorized=False,
            n_resamples=draws,
            rng=numpy.random.default_rng(seed),
        )
    except Undefined:
        return None
    return min(1.0, float(test.pvalue))


def sign_p_value(draws: Numbers) -> float:
    """Return twice the share of resamples on the rarer side of zero, zero itself on both, and at most 1.

    It is never below two of the resamples, of which more might have lain there.
    """
    rarer = min(float((draws <= 0).sum()), float((draws >= 0).sum()))
    return min(1.0, 2.0 * max(rarer, 1.0) / draws.size)


def _bootstrap(values: Numbers, *, draws: int, seed: int) -> Any:
    return stats.bootstrap(
        (values,),
        numpy.mean,
        n_resamples=draws,
        confidence_level=LEVEL,
        # Not BCa, scipy's default: it is undefined where all differences are equal.
        method="percentile",
        rng=numpy.random.default_rng(seed),
    )


def wilcoxon(differences: Sequence[float]) -> Wilcoxon | None:
    """Return the exact test of paired differences; those that are zero are left out (Wilcoxon 1945)."""
    if not differences:
        return None
    # Differences of the same size would be ranked apart by the last bit of their subtraction.
    unequal = [rounded for difference in differences if (rounded := round(difference, 12)) != 0.0]
    # Of one alone, both signs are as far from zero.
    if len(unequal) < 2:
        return Wilcoxon(1.0, 1.0)
    # Not method="exact", which is wrong with ties. Of up to 13 differences scipy counts all patterns of signs, since
    # they are fewer than DRAWS; of more it draws some, with a fixed seed.
    method = stats.PermutationMethod(n_resamples=DRAWS, rng=numpy.random.default_rng(0))
    p_value = float(stats.wilcoxon(unequal, method=method).pvalue)
    return Wilcoxon(p_value, 2.0 ** (1 - len(unequal)))


def resampled_scores(
    task: AnyTask, predictions: Sequence[Mapping[str, Any]], *, draws: int = ROW_DRAWS, seed: int = 0
) -> list[float] | None:
    """Return the headline metric on ``draws`` resamples of the rows; None where one is undefined."""
    if (score := task.rescored(predictions)) is None:
        return None
    # Equal numbers of rows and equal seeds give the same resamples, so that two methods can be paired.
    picks = numpy.random.default_rng(seed).integers(len(predictions), size=(draws, len(predictions)))
    try:
        return [score(rows) for rows in picks]
    except Undefined:
        return None


def read_validations(folder: Path, metric: str) -> Reached:
    """Return seconds and score of each validation of the run in a folder."""
    # Apart from the scores, whose file is the same to the byte whenever the run is made again.
    times = read_times(folder / "times.jsonl")
    return [
        (times[line["step"]], numbers.get(metric))
        for line in read_lines(folder / "metrics.jsonl")
        if (numbers := numbers_in(line)) is not None and line["step"] in times
    ]


def best_score(reached: Reached, *, greater_is_better: bool) -> float | None:
    """Return the best of the scores, or None where there is none."""
    scores = (score for _, score in reached if score is not None)
    return (max if greater_is_better else min)(scores, default=None)


def seconds_to_reach(reached: Reached, target: float, *, greater_is_better: bool) -> float | None:
    """Return the seconds of the first validation at least as good as ``target``, or None."""
    sign = 1.0 if greater_is_better else -1.0
    return next((seconds for seconds, score in reached if score is not None and sign * (score - target) >= 0.0), None)
