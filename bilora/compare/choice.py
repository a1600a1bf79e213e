"""Which of its candidates a method is reported with, and how many steps its budget buys."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bilora.errors import DivergedError

Record = Mapping[str, Any]
"""What :func:`~bilora.compare.jobs.run_job` returns."""


@dataclass(frozen=True)
class Choice:
    """The candidate of an entry that is reported.

    Args:
        candidate: Its settings.
        tried: Every candidate with its mean ``score`` and ``loss`` on held-out training rows; empty where there was
            nothing to choose among.
        seconds: Mean seconds of the entry's trials; None without any.
    """

    candidate: dict[str, Any]
    tried: list[dict[str, Any]]
    seconds: float | None = None


def choose(label: str, candidates: Sequence[dict[str, Any]], records: Sequence[Record]) -> Choice:
    """Return the candidate with the best mean score; of equal ones that with the smaller loss.

    A candidate of which a run diverged is never chosen, and one without a defined score, such as a correlation of
    constant answers, only where no candidate has one; then the smaller loss decides.

    Args:
        label: The entry, for the error text.
        candidates: All of them.
        records: Those of the entry's trials.

    Raises:
        DivergedError: Every candidate diverged.

    Example:
        >>> record = {"failed": None, "greater_is_better": True, "row": {"score": 0.5, "validation_loss": 1.0}}
        >>> record["row"]["seconds"] = 2.0
        >>> found = choose("lora", [{"rate": 1}, {"rate": 2}], [
        ...     {**record, "candidate": {"rate": 1}},
        ...     {**record, "candidate": {"rate": 2}, "row": {**record["row"], "score": 0.75}},
        ... ])
        >>> found.candidate, found.seconds
        ({'rate': 2}, 2.0)
    """
    if not records:
        return Choice(candidates[0], [])
    sign = 1.0 if records[0]["greater_is_better"] else -1.0
    tried = [_tried(each, [record for record in records if record["candidate"] == each]) for each in candidates]
    ended = [each for each in tried if each["loss"] is not None]
    if not ended:
        raise DivergedError(
            f"entry {label!r}: every candidate diverged; give smaller learning rates "
            f"({'; '.join(str(record['failed']) for record in records if record['failed'])})"
        )
    scored = [each for each in ended if each["score"] is not None]
    best = max(scored or ended, key=lambda each: (sign * (each["score"] or 0.0), -each["loss"]))
    seconds = [record["row"]["seconds"] for record in records if record["row"] is not None]
    return Choice(best["candidate"], tried, statistics.mean(seconds))


def _tried(candidate: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    rows = [record["row"] for record in records]
    return {"candidate": candidate, "score": _mean(rows, "score"), "loss": _mean(rows, "validation_loss")}


def _mean(rows: Sequence[Mapping[str, Any] | None], key: str) -> float | None:
    """Return the mean over all runs; None where one of them has no value."""
    values = [None if row is None else row[key] for row in rows]
    known = [each for each in values if each is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def steps_in_time(steps: int, *, own_seconds: float, baseline_seconds: float) -> int:
    """Return how many steps fit into the time of the baseline's ``steps``.

    Args:
        steps: Steps of either when the times were taken.
        own_seconds: What they took.
        baseline_seconds: What the baseline's took.

    Example:
        >>> steps_in_time(150, own_seconds=30.0, baseline_seconds=20.0)
        100
    """
    return max(1, round(steps * baseline_seconds / own_seconds))
