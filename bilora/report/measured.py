"""Score, certainty and cost of each method of a report, and its difference to the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy
from scipy import stats

from bilora.metrics.metric import Undefined
from bilora.report.figures import by_label
from bilora.report.judged import kind_of_answers
from bilora.report.read_run import ReadRun
from bilora.runs.statistics import (
    ROW_DRAWS,
    Interval,
    bootstrap_interval,
    interval_over_rows,
    paired_differences,
    resampled_scores,
    row_permutation_test,
    wilcoxon,
)

# Resamples of the rows where no seeds are resampled beside them; else as many as in `bilora compare`, whose intervals
# these then are.
DRAWS = 1_000

SEEDS, ROWS, BOTH, TOO_FEW = "seeds", "rows", "seeds and rows", "seeds, too few to tell"


@dataclass(frozen=True)
class Difference:
    """The mean difference of a method's score to the baseline's, over the seeds that both have."""

    mean: float
    interval: Interval | None
    p_value: float | None
    over: str = BOTH  # what the interval is over
    tested: str = SEEDS  # what the p-value is over
    seeds: int = 1


@dataclass(frozen=True)
class Measured:
    """One method in numbers; what is not known is None."""

    label: str
    metric: str
    scored_on: str
    score: float | None  # mean over seeds
    greater_is_better: bool | None = True
    seeds: int = 1
    rows: int | None = None  # that gave the score
    interval: Interval | None = None  # of the score
    # The score of always answering the most frequent class, and that class.
    chance: float | None = None
    chance_class: str | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    parameters: int | None = None
    is_baseline: bool = False
    difference: Difference | None = None  # None for the baseline, and where there are no pairs on the same rows


def baseline_label(runs: Sequence[ReadRun]) -> str:
    """Return the label that others are compared with: that of the comparison, else ``lora``, else the first."""
    named = next((run.label for run in runs if run.is_baseline), None)
    plain = next((run.label for run in runs if run.method == "lora"), None)
    return named or plain or runs[0].label


def measured(runs: Sequence[ReadRun]) -> list[Measured]:
    """Return all methods of which a run has ended, in their order."""
    ended = [run for run in runs if run.results]
    if not ended:
        return []
    groups, baseline = by_label(ended), baseline_label(ended)
    draws = DRAWS if all(len(same) == 1 for same in groups.values()) else ROW_DRAWS
    resampled = {run.folder: _resampled(run, draws) for run in ended}
    return [
        _measured(same, None if label == baseline else groups[baseline], resampled) for label, same in groups.items()
    ]


Resampled = Mapping[Any, list[float] | None]


def _resampled(run: ReadRun, draws: int) -> list[float] | None:
    if run.task is None or not run.answers:
        return None
    return resampled_scores(run.task, run.answers, draws=draws)


def _measured(runs: Sequence[ReadRun], baseline: Sequence[ReadRun] | None, resampled: Resampled) -> Measured:
    first = runs[0]
    scores = [run.numbers["score"] for run in runs]
    of_rows = [draws for run in runs if (draws := resampled[run.folder]) is not None]
    chance, chance_class = _chance(first)
    return Measured(
        label=first.label,
        metric=first.metric,
        scored_on=first.scored_on,
        score=_mean(scores),
        greater_is_better=first.greater_is_better,
        seeds=len(runs),
        rows=len(first.answers) or None,
        interval=_score_interval(scores, of_rows, same_rows=len({run.rows_key for run in runs}) == 1),
        chance=chance,
        chance_class=chance_class,
        seconds=_mean([run.numbers["seconds"] for run in runs]),
        peak_memory_mb=_mean([run.numbers["peak_memory_mb"] for run in runs]),
        parameters=first.parameters,
        is_baseline=baseline is None,
        difference=None if baseline is None else _difference(runs, baseline, resampled),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    # As in the table: a mean that leaves a run out would be one of others.
    return fmean(numbers) if numbers and len(numbers) == len(values) else None


def _score_interval(
    scores: Sequence[float | None], of_rows: Sequence[list[float]], *, same_rows: bool
) -> Interval | None:
    if len(of_rows) == len(scores) and same_rows:
        return interval_over_rows(of_rows)
    numbers = [score for score in scores if score is not None]
    return bootstrap_interval(numbers) if len(numbers) == len(scores) else None


def _chance(run: ReadRun) -> tuple[float | None, str | None]:
    """Return the score of always answering the most frequent class of the rows, and that class."""
    if run.task is None or kind_of_answers(run.answers) != "classes":
        return None, None
    labels = [row["label"] for row in run.answers]
    most = max(sorted(set(labels)), key=labels.count)
    score = run.task.rescored([{**row, "prediction": most} for row in run.answers])
    try:
        return (None, None) if score is None else (score(numpy.arange(len(labels))), most)
    except Undefined:
        return None, None


def _difference(runs: Sequence[ReadRun], baseline: Sequence[ReadRun], resampled: Resampled) -> Difference | None:
    theirs, ours = {run.seed: run for run in baseline}, {run.seed: run for run in runs}
    seeds = sorted(set(ours) & set(theirs))
    if not all(_scored_alike(ours[seed], theirs[seed]) for seed in seeds):
        return None
    scores = ({seed: by_seed[seed].numbers["score"] for seed in seeds} for by_seed in (ours, theirs))
    differences = paired_differences(*scores)
    if not differences or len(differences) < len(seeds):
        return None
    drawn = [(resampled[ours[seed].folder], resampled[theirs[seed].folder]) for seed in seeds]
    of_rows = [numpy.subtract(ours, theirs) for ours, theirs in drawn if ours is not None and theirs is not None]
    if len(of_rows) == len(seeds):
        interval: Interval | None = interval_over_rows(of_rows)  # type: ignore[arg-type]  # arrays are sequences too
        over = ROWS if len(seeds) == 1 else BOTH
    else:
        interval, over = bootstrap_interval(differences), SEEDS
    p_value, tested = _tested(differences, [(ours[seed], theirs[seed]) for seed in seeds])
    return Difference(fmean(differences), interval, p_value, over, tested, len(seeds))


def _scored_alike(run: ReadRun, other: ReadRun) -> bool:
    """Return whether two runs have the same metric of the same rows."""
    alike = (run.metric, run.scored_on, run.task_name) == (other.metric, other.scored_on, other.task_name)
    return alike and (run.rows_key == other.rows_key or not (run.answers and other.answers))


def _tested(differences: Sequence[float], pairs: Sequence[tuple[ReadRun, ReadRun]]) -> tuple[float | None, str]:
    """Return a p-value over seeds where those are enough, else over rows where answers are kept."""
    test = wilcoxon(differences)
    if test is not None and test.can_tell:
        return test.p_value, SEEDS
    task = pairs[0][0].task
    if task is not None and all(run.answers for pair in pairs for run in pair):
        over_rows = row_permutation_test(task, [(run.answers, other.answers) for run, other in pairs])
        if over_rows is not None:
            return over_rows, ROWS
    return (test.p_value, TOO_FEW) if test is not None and len(differences) > 1 else (None, TOO_FEW)


def recall_interval(found: float, of: int) -> Interval:
    """Return the 95% interval of a share of ``of`` rows (Wilson 1927)."""
    interval = stats.binomtest(round(found * of), of).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
