"""What a comparison found, one line per method, in numbers."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from bilora.compare.config import ComparisonConfig
from bilora.compare.folders import Record
from bilora.runs.results import read_predictions
from bilora.runs.statistics import (
    Interval,
    Wilcoxon,
    best_score,
    bootstrap_interval,
    paired_differences,
    read_validations,
    resampled_scores,
    row_bootstrap_interval,
    seconds_to_reach,
    wilcoxon,
)
from bilora.runs.table import Spread
from bilora.tasks.task import AnyTask


@dataclass(frozen=True)
class Line:
    """One method's line; what has no value is None."""

    label: str
    metric: str
    # Seeds that ran to the end, and those that diverged.
    seeds: int
    failed: int
    score: Spread | None
    # Mean of the paired differences to the baseline's score, its interval over seeds, and the one over seeds and
    # validation rows, where predictions are kept.
    difference: float | None
    interval: Interval | None
    row_interval: Interval | None
    test: Wilcoxon | None
    train_loss: Spread | None
    # Validation loss less training loss.
    gap: Spread | None
    seconds: Spread | None
    # Seconds until the baseline's best score of the same seed, and the seeds that reached it.
    reach: Spread | None
    reached: int
    peak_memory_mb: Spread | None
    parameters: int | None
    steps: int | None
    candidate: Mapping[str, Any]


@dataclass(frozen=True)
class _Runs:
    """The runs of one method; all but the records by seed, for the runs that ended."""

    records: Sequence[Record]
    rows: pandas.DataFrame
    validations: dict[int, Any]
    resampled: dict[int, list[float]]


NUMBERS = ["score", "train_loss", "validation_loss", "seconds", "peak_memory_mb"]
COLUMNS = [*NUMBERS, "trainable_parameters", "steps"]


def lines_of(config: ComparisonConfig, records: Sequence[Record], *, folder: Path, task: AnyTask) -> list[Line]:
    """Return the lines of all methods, from the records of the reported runs and the files in their folders."""
    runs = {
        label: _runs([record for record in records if record["label"] == label], folder, task)
        for label in config.methods
    }
    return [_line(label, runs[label], runs[config.baseline]) for label in config.methods]


def _runs(records: Sequence[Record], folder: Path, task: AnyTask) -> _Runs:
    ended = {record["seed"]: record for record in records if record["row"] is not None}
    rows = pandas.DataFrame([record["row"] for record in ended.values()], index=list(ended), columns=COLUMNS)
    # A column of None alone is one of objects, of which nothing can be taken off.
    rows[NUMBERS] = rows[NUMBERS].astype(float)
    validations, resampled = {}, {}
    for seed, record in ended.items():
        validations[seed] = read_validations(folder / record["folder"], record["metric"])
        # Not every kind of task keeps its predictions, and of some resamples a score may be undefined.
        predictions = read_predictions(folder / record["folder"] / f"predictions-{record['set']}.jsonl")
        scores = None if predictions is None else resampled_scores(task, predictions)
        if scores is not None:
            resampled[seed] = scores
    return _Runs(records, rows.assign(gap=rows["validation_loss"] - rows["train_loss"]), validations, resampled)


def _line(label: str, runs: _Runs, baseline: _Runs) -> Line:
    first, ended = runs.records[0], len(runs.rows)
    differences = () if runs is baseline else paired_differences(dict(runs.rows["score"]), dict(baseline.rows["score"]))
    reach = _reach(runs, baseline, greater_is_better=first["greater_is_better"])
    return Line(
        label=label,
        metric=first["metric"],
        seeds=ended,
        failed=len(runs.records) - ended,
        difference=statistics.mean(differences) if differences else None,
        interval=bootstrap_interval(differences),
        row_interval=None if runs is baseline else _row_interval(runs.resampled, baseline.resampled),
        test=wilcoxon(differences),
        reach=Spread.of(reach),
        reached=len(reach),
        parameters=int(runs.rows["trainable_parameters"].iloc[0]) if ended else None,
        steps=int(runs.rows["steps"].iloc[0]) if ended else None,
        candidate=first["candidate"],
        **{name: Spread.of(runs.rows[name]) for name in ("score", "train_loss", "gap", "seconds", "peak_memory_mb")},
    )


def _reach(runs: _Runs, baseline: _Runs, *, greater_is_better: bool) -> list[float]:
    """Return the seconds to the best score of the baseline with the same seed, for the seeds that reached it."""
    reach = []
    for seed, validations in runs.validations.items():
        best = best_score(baseline.validations.get(seed, []), greater_is_better=greater_is_better)
        if best is not None:
            reach.append(seconds_to_reach(validations, best, greater_is_better=greater_is_better))
    return [seconds for seconds in reach if seconds is not None]


def _row_interval(resampled: Mapping[int, list[float]], baseline: Mapping[int, list[float]]) -> Interval | None:
    seeds = sorted(set(resampled) & set(baseline))
    if len(seeds) < 2:
        return None
    return row_bootstrap_interval([resampled[seed] for seed in seeds], [baseline[seed] for seed in seeds])
