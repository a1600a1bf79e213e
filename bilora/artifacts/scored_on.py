"""What the numbers of a run are of: rows that nothing has seen, or D2, which its upper level was trained on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

VALIDATION = "validation"
"""Key of the numbers in ``metrics.jsonl`` where the rows are of a validation set, whatever its name."""

UPPER = "d2"
"""The same where no row is held out and D2 is watched, and the name of that set in all files."""

WHOLE_D2 = "D2, the part of the training rows that the upper level was trained on too"


def set_kind(name: str) -> str:
    """Return which of the two the set of a name is.

    Example:
        >>> set_kind("validation_matched"), set_kind("d2")
        ('validation', 'd2')
    """
    return UPPER if name == UPPER else VALIDATION


def spoken_set(name: str) -> str:
    """Return what a set of so many rows is, in a list that begins with the training rows.

    Example:
        >>> spoken_set("validation"), spoken_set("d2")
        ('validation', 'of them D2')
    """
    return "of them D2" if name == UPPER else name


def numbers_in(line: Mapping[str, Any]) -> Mapping[str, float | None] | None:
    """Return the numbers in a line of ``metrics.jsonl``, or None for the line of a step.

    Example:
        >>> numbers_in({"step": 4, "d2": {"loss": 0.5}}), numbers_in({"step": 4, "lower_loss": 0.5})
        ({'loss': 0.5}, None)
    """
    found: Mapping[str, float | None] | None = line.get(VALIDATION, line.get(UPPER))
    return found


def loss_by_name(loss: float | None, kind: str) -> dict[str, Any]:
    """Return what a row of results says of the loss; that of D2 has a name of its own, and is no validation loss.

    Example:
        >>> loss_by_name(0.5, "d2")
        {'scored_on': 'd2', 'validation_loss': None, 'd2_loss': 0.5}
    """
    own = {"validation_loss": loss} if kind == VALIDATION else {"validation_loss": None, f"{kind}_loss": loss}
    return {"scored_on": kind, **own}


def spoken(kinds: Collection[str]) -> str:
    """Return in words which rows gave the numbers of some runs.

    Example:
        >>> spoken({"validation"})
        'the validation rows'
    """
    if UPPER not in kinds:
        return "the validation rows"
    return WHOLE_D2 if VALIDATION not in kinds else f"the validation rows, or, where none were held out, {WHOLE_D2}"
