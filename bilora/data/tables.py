"""Rows of cells as records: what parts the columns of a text, and whether the first row names them."""

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bilora.data.faults import Fault
from bilora.errors import DataError, first_ten

# Line (of a table: row) counted from 1, fields by name, faults of the form.
Record = tuple[int, dict[str, Any], list[Fault]]
# The line on which a row begins, and its cells.
Cells = tuple[int, list[Any]]

# What may part the columns of a .csv; of several that fit the first is taken.
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
# Rows that are looked at to tell.
LOOKED_AT = 20

# Cells by which a first row is known to be one of names, whatever else stands in it.
NAMES = frozenset(
    ("text", "texts", "sentence", "sentence1", "sentence2", "review", "content", "tokens", "title", "body", "message")
    + ("comment", "tweet", "question", "premise", "hypothesis", "prompt", "completion", "label", "labels", "class")
    + ("category", "target", "tags", "sentiment", "intent", "stance", "score", "rating", "id")
)
_NUMBER = re.compile(r"-?\d+([.,]\d+)?")


def read_delimited(path: Path, text: str, **form: Any) -> list[Record]:
    """Return the records of a text whose columns a delimiter parts; without one in ``form`` it is found."""
    # The csv module takes no field above 128 KiB unless told; it is told for all, so what it was told is put back.
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        if "delimiter" not in form:
            form["delimiter"] = _delimiter(path, text, form)
        # newline="": a line end inside of quotes stays as it is.
        rows = list(_cells(path, csv.reader(io.StringIO(text, newline=""), **form)))
    finally:
        csv.field_size_limit(limit)
    return as_records(path, rows)


def as_records(path: Path, rows: list[Cells]) -> list[Record]:
    """Return rows of cells as records, with the names of the first row, or made ones where it holds no names."""
    while rows and not rows[-1][1]:
        rows.pop()
    if not rows:
        return []
    number, first = rows[0]
    names = ["" if name is None else str(name) for name in first]
    if _is_data(first, [cells for _, cells in rows[1:]]):
        names = [f"column_{position}" for position in range(1, len(names) + 1)]
        warnings.warn(
            f"{path}: the first row is no header, and was read as a row; its columns are called {first_ten(names)}",
            RuntimeWarning,
            stacklevel=4,
        )
        return [_record(line, cells, names) for line, cells in rows]
    # As a dict of fields, the last of them would win without a word.
    if twice := sorted(str(name) for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{path}:{number}: column {twice[0]!r} is there twice; give every column its own name")
    return [_record(line, cells, names) for line, cells in rows[1:]]


def _is_data(first: Sequence[Any], others: Sequence[Sequence[Any]]) -> bool:
    """Return whether a first row holds values: a number, or what a later row has in the same column."""
    if not others or any(str(cell).strip().lower() in NAMES for cell in first):
        return False
    # Files that were put together have their header in the middle too.
    rows = [cells for cells in others if len(cells) == len(first) and list(cells) != list(first)]
    again = (len(first) > 1 and any(cell and cells[i] == cell for cells in rows) for i, cell in enumerate(first))
    return any(again) or any(_NUMBER.fullmatch(str(cell).strip()) for cell in first)


def _delimiter(path: Path, text: str, form: Any) -> str:
    for delimiter, name in DELIMITERS.items():
        if _fits(text, {**form, "delimiter": delimiter}):
            if delimiter != ",":
                warnings.warn(f"{path}: the columns are parted by a {name}", RuntimeWarning, stacklevel=4)
            return delimiter
    return ","


def _fits(text: str, form: Any) -> bool:
    """Return whether a delimiter parts all of the first rows into the same number of columns, more than one."""
    counts = set()
    try:
        for position, cells in enumerate(csv.reader(io.StringIO(text, newline=""), **form)):
            if position >= LOOKED_AT:
                break
            if cells:
                counts.add(len(cells))
    except csv.Error:
        return False
    return len(counts) == 1 and counts != {1}


def _cells(path: Path, reader: Any) -> Iterator[Cells]:
    # The reader counts the lines it has read; a record of several lines is named by its first one.
    first = 1
    try:
        for cells in reader:
            yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{first}: the record that begins here is broken: {error}") from error


def _record(number: int, cells: Sequence[Any], names: Sequence[str]) -> Record:
    if not cells:
        return number, {}, [Fault(None, "the line is blank; only the end of a file may have blank lines")]
    if len(cells) != len(names):
        what = f"has {len(cells)} fields, but the first line names {len(names)} ({first_ten(names)})"
        return number, {}, [Fault(None, f"{what}; in .csv, a text with a comma or a double quote stands in quotes")]
    return number, dict(zip(names, cells, strict=True)), []
