"""Checks of single lines and rows: what is wrong with them, field by field, before a model is loaded."""

from __future__ import annotations

import json
import math
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Never

from bilora.errors import DataError
from bilora.lookup import did_you_mean

if TYPE_CHECKING:
    from bilora.tasks import Task  # which asks this module to check its rows

SHOWN = 5

OnBadRow = Literal["error", "skip"]
"""What is done with rows that cannot be used: all are refused together, or they are left out."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60  # a row may hold a megabyte of text


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a row: the field (None for the whole line) and the text.

    Example:
        >>> Fault("label", "is missing").at("train.jsonl", 3)
        "train.jsonl:3 field 'label': is missing"
    """

    field: str | None
    text: str

    def at(self, source: str, line: int) -> str:
        """Return the fault as ``source:line field 'name': text``.

        Example:
            >>> Fault(None, "the line is blank").at("train.jsonl", 3)
            'train.jsonl:3: the line is blank'
        """
        where = f"{source}:{line}" if self.field is None else f"{source}:{line} field {self.field!r}"
        return f"{where}: {self.text}"


def parse_line(line: bytes) -> tuple[dict[str, Any], list[Fault]]:
    """Return the JSON object on one line of a file and the faults found on the way.

    Strict JSON (RFC 8259): the literals NaN and Infinity, which Python's reader lets pass, are faults,
    and so is a field given twice, of which Python would keep the last.

    Args:
        line: The bytes of the line, without the line feed.

    Returns:
        The object (empty if the line holds none) and its faults.

    Example:
        >>> parse_line(b'{"text": "fine", "label": 1}')
        ({'text': 'fine', 'label': 1}, [])
        >>> parse_line(b'{"text": "cut')[1][0].text
        'is not a JSON object: Unterminated string starting at column 10'
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return {}, [Fault(None, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")]
    if not text.strip():
        return {}, [Fault(None, "the line is blank; only the end of a file may have blank lines")]
    try:
        row = json.loads(text, parse_constant=_Literal, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        return {}, [Fault(None, f"is not a JSON object: {_reason(error)}")]
    except (ValueError, RecursionError) as error:  # a field given twice, a number or a nesting beyond limits
        return {}, [Fault(None, f"cannot be read as JSON: {error}")]
    if not isinstance(row, dict):
        return {}, [Fault(None, f"is not a JSON object but {_SHORT.repr(row)}")]
    literals = [name for name, value in row.items() if isinstance(value, _Literal)]
    return row, [Fault(name, f"{row[name]} is not a JSON value; give a finite number") for name in literals]


def check_row(row: Mapping[str, Any], task: Task) -> tuple[int | float | None, list[Fault]]:
    """Return the label of ``row`` as a class index or a number, and everything wrong with the row.

    Args:
        row: A field name to value mapping.
        task: Says which fields there must be and which labels are allowed.

    Returns:
        The label (None if it is at fault) and the faults, text fields first.

    Example:
        >>> from bilora.tasks import TASKS
        >>> check_row({"sentence": "A fine film.", "label": "positive"}, TASKS["sst2"])
        (1, [])
        >>> check_row({"sentence": " ", "label": 1}, TASKS["sst2"])[1]
        [Fault(field='sentence', text='is empty; every row needs text')]
    """
    faults = [fault for name in task.text_fields for fault in _text_faults(row, name)]
    field = task.label_field
    if field not in row:
        return None, [*faults, _missing(row, field)]
    label, problem = (_number if task.is_regression else _class_index)(row[field], task)
    if problem is not None:
        faults.append(Fault(field, problem))
    return label, faults


def refuse(faults: Sequence[str], *, source: str) -> Never:
    """Raise a ``DataError`` with the first five faults and the count of the rest.

    Raises:
        DataError: Always.

    Example:
        >>> refuse(["a.jsonl:1: x"], source="a.jsonl")
        Traceback (most recent call last):
            ...
        bilora.errors.DataError: a.jsonl: 1 fault in the rows
          a.jsonl:1: x
    """
    count = len(faults)
    raise DataError(_with_first(f"{source}: {count:,} {'fault' if count == 1 else 'faults'} in the rows", faults))


def warn_of_skipped(faults: Sequence[str], *, rows: int, of: int, source: str) -> None:
    """Warn that so many rows are left out, with the first five faults and the count of the rest."""
    said = f"{source}: {rows:,} of {of:,} rows {'is' if rows == 1 else 'are'} left out (on_bad_row: skip)"
    warnings.warn(_with_first(said, faults), RuntimeWarning, stacklevel=3)


def _with_first(said: str, faults: Sequence[str]) -> str:
    rest = [f"and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    return "\n  ".join([said, *faults[:SHOWN], *rest])


class _Literal(str):
    """NaN, Infinity or -Infinity as it stood in the file."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} is given more than once")
    return row


def _reason(error: json.JSONDecodeError) -> str:
    return f"{error.msg.removesuffix(' at')} at column {error.colno}"


def _missing(row: Mapping[str, Any], name: str) -> Fault:
    return Fault(name, f"is missing; the row has {', '.join(row) or 'no field'}.{did_you_mean(name, row)}")


def _text_faults(row: Mapping[str, Any], name: str) -> list[Fault]:
    if name not in row:
        return [_missing(row, name)]
    text = row[name]
    if isinstance(text, _Literal):
        return []  # told by parse_line
    if not isinstance(text, str):
        return [Fault(name, f"is {_SHORT.repr(text)} ({type(text).__name__}); text is needed")]
    if not text.strip():
        return [Fault(name, "is empty; every row needs text")]
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return [Fault(name, "has half of a surrogate pair, which is no character; repair the text")]
    return []


def _class_index(label: Any, task: Task) -> tuple[int | None, str | None]:
    names = task.label_names or ()
    if isinstance(label, _Literal):
        return None, None  # told by parse_line
    if task.labels_from is not None:
        return _named_class(label, names, task.labels_from)
    if isinstance(label, str) and label in names:
        return names.index(label), None
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label, None
    allowed = f"allowed: 0 to {len(names) - 1}, or one of {', '.join(names)}"
    return None, f"is {_SHORT.repr(label)} ({type(label).__name__}); {allowed}{_unlabelled(label)}"


def class_name(label: Any) -> str | None:
    """Return what a label of a file is called as a class: text as it is, numbers and truth values as written.

    Returns:
        The name; None for what is no label: nothing, an empty text, NaN, or a list.

    Example:
        >>> class_name("spam"), class_name(3), class_name(""), class_name(float("nan"))
        ('spam', '3', None, None)
    """
    if isinstance(label, float) and not math.isfinite(label):
        return None
    return str(label) or None if isinstance(label, str | int | float) else None


def _named_class(label: Any, names: Sequence[str], source: str) -> tuple[int | None, str | None]:
    name = class_name(label)
    if name in names:
        return names.index(name), None
    if name is None:
        return None, f"is {_SHORT.repr(label)}; every row needs a label"
    known = f"{', '.join(names[:10])}{f' and {len(names) - 10} more' if len(names) > 10 else ''}"
    return None, f"is {_SHORT.repr(label)}, which is no label of {source}; those are: {known}"


def _number(label: Any, task: Task) -> tuple[float | None, str | None]:
    if isinstance(label, _Literal):
        return None, None  # told by parse_line
    if isinstance(label, bool) or not isinstance(label, int | float):
        return None, f"is {_SHORT.repr(label)} ({type(label).__name__}); a number is needed"
    low, high = task.label_range or (-math.inf, math.inf)
    # The comparison with an int comes first: an int too large for a float cannot be asked if it is finite.
    if low <= label <= high and -1.7e308 < label < 1.7e308:
        return float(label), None
    allowed = f"{low:g} to {high:g}" if task.label_range else "a finite number"
    return None, f"is {_SHORT.repr(label)}; allowed: {allowed}{_unlabelled(label)}"


def _unlabelled(label: Any) -> str:
    return "; -1 is the mark of unlabelled test rows" if label == -1 else ""
