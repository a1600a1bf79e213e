"""What a comparison found, one line a method, in numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilora.compare.choice import Record
from bilora.compare.config import ComparisonConfig
from bilora.compare.statistics import (
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
from bilora.runs.results import read_predictions
from bilora.tasks.task import AnyTask


@dataclass(frozen=True)
class Spread:
    """Mean and sample deviation; the deviation of a single number is None.

    Example:
        >>> Spread.of([1.0, 3.0]).mean, Spread.of([1.0]).deviation, Spread.of([]) is None
        (2.0, None, True)
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of numbers; None without any, or where one of them is undefined."""
        numbers = list(values)
        known = [each for each in numbers if each is not None]
        if not known or len(known) < len(numbers):
            return None
        return cls(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class Line:
    """One method's line; what has no value is None.

    Args:
        label: The entry.
        metric: The headline metric.
        seeds: Seeds that ran to the end.
        failed: Seeds that diverged.
        score: Of the headline metric.
        difference: Mean paired difference of the score to the baseline's.
        interval: Its bootstrap interval over seeds.
        row_interval: The same over seeds and validation rows, where predictions are kept.
        test: The Wilcoxon test of the paired differences.
        train_loss: On the training rows.
        gap: Validation loss less training loss.
        seconds: Training time.
        reach: Seconds until the baseline's best score of the same seed.
        reached: Seeds that reached it.
        peak_memory_mb: Peak memory.
        parameters: Trainable parameters.
        steps: Lower steps.
        candidate: The chosen settings.
    """

    label: str
    metric: str
    seeds: int
    failed: int
    score: Spread | None
    difference: float | None
    interval: tuple[float, float] | None
    row_interval: tuple[float, float] | None
    test: Wilcoxon | None
    train_loss: Spread | None
    gap: Spread | None
    seconds: Spread | None
    reach: Spread | None
    reached: int
    peak_memory_mb: Spread | None
    parameters: int | None
    steps: int | None
    candidate: Mapping[str, Any]


def lines_of(config: ComparisonConfig, records: Sequence[Record], *, folder: Path, task: AnyTask) -> list[Line]:
    """Return the lines of all methods.

    Args:
        config: The comparison.
        records: Of the reported runs.
        folder: The comparison's folder, which holds the runs.
        task: What the runs learned.
    """
    by_label = {label: {each["seed"]: each for each in records if each["label"] == label} for label in config.methods}
    baseline = by_label[config.baseline]
    resampled = {label: _resampled(runs, folder, task) for label, runs in by_label.items()}
    return [
        _line(
            label,
            runs,
            baseline,
            is_baseline=label == config.baseline,
            rows=_row_interval(resampled[label], resampled[config.baseline]),
            folder=folder,
        )
        for label, runs in by_label.items()
    ]


def _line(
    label: str,
    runs: Mapping[int, Record],
    baseline: Mapping[int, Record],
    *,
    is_baseline: bool,
    rows: tuple[float, float] | None,
    folder: Path,
) -> Line:
    done = [each["row"] for each in runs.values() if each["row"] is not None]
    first = next(iter(runs.values()))
    differences = () if is_baseline else paired_differences(_scores(runs), _scores(baseline))
    reach = [each for each in _reach(runs, baseline, folder) if each is not None]
    return Line(
        label=label,
        metric=first["metric"],
        seeds=len(done),
        failed=len(runs) - len(done),
        score=Spread.of(row["score"] for row in done),
        difference=statistics.mean(differences) if differences else None,
        interval=bootstrap_interval(differences),
        row_interval=None if is_baseline else rows,
        test=wilcoxon(differences),
        train_loss=Spread.of(row["train_loss"] for row in done),
        gap=Spread.of(_gap(row) for row in done),
        seconds=Spread.of(row["seconds"] for row in done),
        reach=Spread.of(reach),
        reached=len(reach),
        peak_memory_mb=Spread.of(row["peak_memory_mb"] for row in done),
        parameters=done[0]["trainable_parameters"] if done else None,
        steps=done[0]["steps"] if done else None,
        candidate=first["candidate"],
    )


def _scores(runs: Mapping[int, Record]) -> dict[int, float | None]:
    return {seed: None if each["row"] is None else each["row"]["score"] for seed, each in runs.items()}


def _gap(row: Mapping[str, Any]) -> float | None:
    if row["validation_loss"] is None or row["train_loss"] is None:
        return None
    return float(row["validation_loss"] - row["train_loss"])


def _reach(runs: Mapping[int, Record], baseline: Mapping[int, Record], folder: Path) -> list[float | None]:
    """Return the seconds that each seed took to the best score of the baseline with that seed."""
    found = []
    for seed, each in runs.items():
        target = baseline[seed]
        greater = each["greater_is_better"]
        best = best_score(_validations(target, folder), greater_is_better=greater)
        own = _validations(each, folder)
        found.append(None if best is None else seconds_to_reach(own, best, greater_is_better=greater))
    return found


def _validations(record: Record, folder: Path) -> list[tuple[float, float | None]]:
    return [] if record["row"] is None else read_validations(folder / record["folder"], record["metric"])


def _resampled(runs: Mapping[int, Record], folder: Path, task: AnyTask) -> dict[int, list[float]]:
    """Return each seed's scores on resampled rows; a seed without predictions is not among them."""
    found: dict[int, list[float]] = {}
    for seed, each in runs.items():
        predictions = read_predictions(folder / each["folder"] / f"predictions-{each['set']}.jsonl")
        if predictions is None:
            continue
        scores = resampled_scores(task, predictions)
        if scores is not None:
            found[seed] = scores
    return found


def _row_interval(own: Mapping[int, list[float]], baseline: Mapping[int, list[float]]) -> tuple[float, float] | None:
    seeds = sorted(set(own) & set(baseline))
    if len(seeds) < 2:
        return None
    return row_bootstrap_interval([own[each] for each in seeds], [baseline[each] for each in seeds])
