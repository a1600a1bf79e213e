"""Checks of single lines and rows: what is wrong with them, field by field, before a model is loaded."""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Never

from bilora.errors import SHORT, DataError
from bilora.files.formats import in_one_line, without_halves

SHOWN = 5

# What is done with rows that cannot be used: all are refused together, or they are left out.
OnBadRow = Literal["error", "skip"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a row: the field (None for the whole line) and the text."""

    field: str | None
    text: str

    def at(self, source: str, line: int) -> str:
        """Return the fault as ``source:line field 'name': text``."""
        where = f"{source}:{line}" if self.field is None else f"{source}:{line} field {self.field!r}"
        return f"{where}: {self.text}"


def parse_line(line: bytes) -> tuple[dict[str, Any], list[Fault]]:
    """Return the JSON object on one line of a file and the faults found on the way."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return {}, [Fault(None, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")]
    if not text.strip():
        return {}, [Fault(None, "the line is blank; only the end of a file may have blank lines")]
    try:
        row = json.loads(text, **STRICT)
    except json.JSONDecodeError as error:
        # Some of Python's messages end with "at", and go on with a position that counts from the line's begin.
        reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        return {}, [Fault(None, f"is not a JSON object: {reason}")]
    except (ValueError, RecursionError) as error:  # a field given twice, a number or a nesting beyond limits
        return {}, [Fault(None, f"cannot be read as JSON: {in_one_line(error)}")]
    return parsed_row(row, escaped="\\u" in text)


def parsed_row(row: Any, *, escaped: bool) -> tuple[dict[str, Any], list[Fault]]:
    """Return a row that :data:`STRICT` JSON gave and its faults; ``escaped`` says whether escapes stood in its text."""
    if not isinstance(row, dict):
        return {}, [Fault(None, f"is not a JSON object but {SHORT.repr(row)}")]
    # Kept in the row, so that what reads the field knows it is told already.
    bad = [(name, value) for name, value in row.items() if isinstance(value, BadNumber)]
    faults = [Fault(name, f"{value} is not a JSON value; give a finite number") for name, value in bad]
    # Only as an escape can it stand in text that was UTF-8.
    for name in [*row] if escaped else ():
        try:
            without_halves([name, row[name]])
        except ValueError as error:
            faults.append(Fault(name, f"{error}; repair the text"))
            row[name] = BadNumber()
    return row, faults


def refuse(faults: Sequence[str], *, source: str, count: int | None = None, cure: str = "") -> Never:
    """Raise a ``DataError`` with the first five faults and the count of the rest, of ``count`` in all."""
    count = len(faults) if count is None else count
    faults_in_words = "1 fault" if count == 1 else f"{count:,} faults"
    raise DataError(_with_first(f"{source}: {faults_in_words} in the rows{cure}", faults, count))


def warn_of_skipped(faults: Sequence[str], *, rows: int, of: int, source: str) -> None:
    """Warn that so many rows are left out, with the first five faults and the count of the rest."""
    headline = f"{source}: {rows:,} of {of:,} rows {'is' if rows == 1 else 'are'} left out (on_bad_row: skip)"
    warnings.warn(_with_first(headline, faults, len(faults)), RuntimeWarning, stacklevel=3)


def warn_of_unanswered(faults: Sequence[str], *, rows: int, of: int, source: str, count: int, skipped: bool) -> None:
    """Warn that so many rows are left out or have no prediction, with the first five of ``count`` faults."""
    what = ("is" if rows == 1 else "are") + " left out (on_bad_row: skip)"
    if not skipped:
        what = ("has" if rows == 1 else "have") + " no prediction (on_bad_row: keep)"
    headline = f"{source}: {rows:,} of {of:,} rows {what}"
    warnings.warn(_with_first(headline, faults, count), RuntimeWarning, stacklevel=3)


def _with_first(headline: str, faults: Sequence[str], count: int) -> str:
    rest = [f"and {count - SHOWN:,} more"] if count > SHOWN else []
    return "\n  ".join([headline, *faults[:SHOWN], *rest])


class BadNumber(str):
    """NaN, Infinity or -Infinity as it stood in the file, or empty for a text that is none."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        # Counted once for all names: a line may have a hundred thousand.
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"field {twice!r} is given more than once")
    return row


# Strict JSON (RFC 8259), for ``json.loads``: Python's reader lets NaN and Infinity pass, and keeps the last of a field
# given twice.
STRICT: dict[str, Any] = {"parse_constant": BadNumber, "object_pairs_hook": _once}
