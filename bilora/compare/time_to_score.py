"""How long a run took to reach a score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bilora.artifacts.scored_on import numbers_in
from bilora.engines.callbacks.times_file import read_times
from bilora.metrics.task_metrics import is_better

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
