"""Which of its candidates a method is reported with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from bilora.compare.folders import Record
from bilora.errors import DivergedError, first_ten
from bilora.runs.table import Spread


@dataclass(frozen=True)
class Choice:
    """The candidate of an entry that is reported; without trials nothing was tried and no time taken."""

    candidate: dict[str, Any]
    # Every candidate with its mean `score` and `loss` on held-out training rows.
    tried: list[dict[str, Any]]
    # Mean of the entry's trials.
    seconds: float | None = None


def choose(label: str, candidates: Sequence[dict[str, Any]], records: Sequence[Record]) -> Choice:
    """Return the candidate with the best mean score over the trials; of equal ones that with the smaller loss."""
    if not records:
        return Choice(candidates[0], [])
    tried = [_tried(candidate, records) for candidate in candidates]
    # A candidate of which one run diverged has no mean loss, and is never chosen however good the others are.
    ended = [trial for trial in tried if trial["loss"] is not None]
    if not ended:
        raise DivergedError(
            f"entry {label!r}: every candidate diverged; give smaller learning rates "
            f"({first_ten((record['failed'] for record in records if record['failed']), '; ')})"
        )
    # One without a defined score, such as a correlation of equal answers, is chosen only where none has one.
    scored = [trial for trial in ended if trial["score"] is not None]
    sign = 1.0 if records[0]["greater_is_better"] else -1.0
    best = max(scored or ended, key=lambda trial: (sign * (trial["score"] or 0.0), -trial["loss"]))
    seconds = pandas.Series([record["row"]["seconds"] for record in records if record["row"] is not None])
    return Choice(best["candidate"], tried, float(seconds.mean()))


def _tried(candidate: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """Return a candidate's mean score and loss; None where one of its runs has no value."""
    rows = [record["row"] or {} for record in records if record["candidate"] == candidate]
    score, loss = (Spread.of(row.get(key) for row in rows) for key in ("score", "validation_loss"))
    return {"candidate": candidate, "score": score and score.mean, "loss": loss and loss.mean}
