"""Checks of the rows of a text task, field by field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bilora.data.faults import BadNumber, Fault
from bilora.errors import SHORT, first_ten
from bilora.settings.lookup import did_you_mean

if TYPE_CHECKING:
    from bilora.tasks.text.task import TextTask  # which asks this module to check its rows


def check_row(row: Mapping[str, Any], task: TextTask) -> tuple[int | float | None, list[Fault]]:
    """Return the label of a row as a class index or a number, and everything wrong with the row."""
    faults = [fault for name in task.text_fields for fault in text_faults(row, name)]
    field = task.label_field
    if field not in row:
        return None, [*faults, missing(row, field)]
    if isinstance(row[field], BadNumber):
        return None, faults  # parse_line has refused it
    label, problem = (_number if task.label_names is None else _class_index)(row[field], task)
    return label, faults if problem is None else [*faults, Fault(field, problem)]


def field_faults(text_fields: Sequence[str], label_field: str) -> tuple[tuple[bool, str], ...]:
    """Return what may be wrong with the fields of a task of texts, each with whether it is."""
    count = (not 1 <= len(text_fields) <= 2, f"text_fields are {text_fields!r}; one or two are allowed")
    return count, (label_field in text_fields, f"text_fields has {label_field!r}, which holds what is to be predicted")


def missing(row: Mapping[str, Any], name: str) -> Fault:
    """Return the fault of a row without a field."""
    return Fault(name, f"is missing; the row has {first_ten(row) or 'no field'}.{did_you_mean(name, row)}")


def text_faults(row: Mapping[str, Any], name: str) -> list[Fault]:
    """Return what is wrong with the text in one field of a row."""
    if name not in row:
        return [missing(row, name)]
    text = row[name]
    if isinstance(text, BadNumber):
        return []  # parse_line has refused it
    if not isinstance(text, str):
        return [Fault(name, f"is {SHORT.repr(text)} ({type(text).__name__}); text is needed")]
    if not text.strip():
        return [Fault(name, "is empty; every row needs text")]
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return [Fault(name, "has half of a surrogate pair, which is no character; repair the text")]
    return []


def _class_index(label: Any, task: TextTask) -> tuple[int | None, str | None]:
    names = task.label_names or ()
    if task.labels_from is not None:
        return _named_class(label, names, task.labels_from)
    if isinstance(label, str) and label in names:
        return names.index(label), None
    # True is an int, and no index.
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label, None
    allowed = f"allowed: 0 to {len(names) - 1}, or one of {first_ten(names)}"
    return None, f"is {SHORT.repr(label)} ({type(label).__name__}); {allowed}{_unlabelled(label)}"


# Of a class. Longer ones are texts, or numbers that no float can hold.
LONGEST_NAME = 1_000


def class_name(label: Any) -> str | None:
    """Return what a label of a file is called as a class: text as it is, numbers and truth values as written."""
    if isinstance(label, float) and not math.isfinite(label):
        return None
    name = str(label) if isinstance(label, str | int | float) else ""
    return name if 0 < len(name) <= LONGEST_NAME else None


def _named_class(label: Any, names: Sequence[str], source: str) -> tuple[int | None, str | None]:
    name = class_name(label)
    if name in names:
        return names.index(name), None
    if name is None:
        longest = f" of at most {LONGEST_NAME:,} characters" if isinstance(label, str | int) and label else ""
        return None, f"is {SHORT.repr(label)}; every row needs a label{longest}"
    return None, f"is {SHORT.repr(label)}, which is no label of {source}; those are: {first_ten(names)}"


def _number(label: Any, task: TextTask) -> tuple[float | None, str | None]:
    # True is an int, and no quantity.
    if isinstance(label, bool) or not isinstance(label, int | float):
        return None, f"is {SHORT.repr(label)} ({type(label).__name__}); a number is needed"
    low, high = task.label_range or (-math.inf, math.inf)
    # The comparison with an int comes first: an int too large for a float cannot be asked if it is finite.
    if low <= label <= high and -1.7e308 < label < 1.7e308:
        return float(label), None
    allowed = f"{low:g} to {high:g}" if task.label_range else "a finite number"
    return None, f"is {SHORT.repr(label)}; allowed: {allowed}{_unlabelled(label)}"


def _unlabelled(label: Any) -> str:
    return "; -1 is the mark of unlabelled test rows" if label == -1 else ""
