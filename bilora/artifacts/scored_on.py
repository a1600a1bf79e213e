"""Which rows the numbers of a run are of: rows that nothing has seen, or D2, which its upper level was trained on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

VALIDATION = "validation"
"""Key of the numbers in ``metrics.jsonl`` where the rows are of a validation set, whatever its name."""

UPPER = "d2"
"""The same where no row is held out and D2 is watched, and the name of that set in all files."""

WHOLE_D2 = "D2, the part of the training rows that the upper level was trained on too"


def set_kind(name: str) -> str:
    """Return ``VALIDATION`` or ``UPPER``, whichever the set of a name is, such as ``validation_matched``."""
    return UPPER if name == UPPER else VALIDATION


def set_in_words(name: str) -> str:
    """Return what a number of rows is in a list such as ``1,000 training rows, 200 of them D2``."""
    return "of them D2" if name == UPPER else name


def in_words(kinds: Collection[str]) -> str:
    """Return which rows gave the numbers of some runs.

    Example:
        >>> in_words({"validation"})
        'the validation rows'
    """
    if UPPER not in kinds:
        return "the validation rows"
    return WHOLE_D2 if VALIDATION not in kinds else f"the validation rows, or, where none were held out, {WHOLE_D2}"


def numbers_in(line: Mapping[str, Any]) -> Mapping[str, float | None] | None:
    """Return the numbers in a line of ``metrics.jsonl``, or None for the line of a step."""
    numbers: Mapping[str, float | None] | None = line.get(VALIDATION, line.get(UPPER))
    return numbers


def loss_by_name(loss: float | None, kind: str) -> dict[str, Any]:
    """Return the loss as a row of results has it; that of D2 has another name, and is no validation loss."""
    if kind == VALIDATION:
        return {"scored_on": kind, "validation_loss": loss}
    return {"scored_on": kind, "validation_loss": None, f"{kind}_loss": loss}
