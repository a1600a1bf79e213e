"""Which columns of a file hold the text, where its user does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bilora.errors import DataError

KNOWN_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("tokens",),
    ("text",),
    ("sentence",),
    ("review",),
    ("content",),
)
"""Names that data sets of the hub and of GLUE give to text, pairs before single ones."""

LOOKED_AT = 100
"""Rows that are looked at for columns of other names."""


def guess_text_columns(rows: Sequence[Mapping[str, Any]], *, label_column: str, source: str) -> tuple[str, ...]:
    """Return the one or two columns of text: those of a known name, else all that hold text in every row.

    Args:
        rows: Rows of the file.
        label_column: The column of the labels, which is none of them.
        source: The file, for the error text.

    Raises:
        DataError: No column holds text, or more than two do.

    Example:
        >>> guess_text_columns([{"id": "7", "body": "see you", "label": 1}], label_column="label", source="a.jsonl")
        ('body',)
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name != label_column))
    for known in KNOWN_COLUMNS:
        if set(known) <= set(names):
            return known
    found = tuple(name for name in names if all(_is_text(row.get(name)) for row in rows[:LOOKED_AT]))
    if not 1 <= len(found) <= 2:
        what = ", ".join(found) or "no column"
        raise DataError(
            f"{source}: {what} of {', '.join(names) or 'no columns'} could be the text; name one or two with "
            "--text-columns"
        )
    return found


def _is_text(value: Any) -> bool:
    """Return whether a value reads as text: one that holds a letter and a space, or ideographs."""
    return isinstance(value, str) and any(each.isalpha() for each in value) and (" " in value or not value.isascii())
