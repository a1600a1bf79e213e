"""Rows of cells as records: what parts the columns of a text, and whether the first row names them."""

import contextlib
import csv
import io
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

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


@dataclass(frozen=True)
class Table:
    """Rows of cells that can be gone through again, and the names of their columns."""

    source: object  # what the rows are called in messages
    names: tuple[str, ...]
    has_header: bool  # whether the first row is the names
    rows: Callable[[], Iterator[Cells]]

    def __iter__(self) -> Iterator[Record]:
        """Return the records from the first one on."""
        rows = itertools.islice(_without_blank_end(self.rows()), int(self.has_header), None)
        return (_record(line, cells, self.names) for line, cells in rows)


def read_delimited(path: Path, text: str, **form: Any) -> list[Record]:
    """Return the records of a text whose columns a delimiter parts; without one in ``form`` it is found."""
    with long_fields(len(text)):
        # newline="": a line end inside of quotes stays as it is.
        return list(open_delimited(path, lambda: io.StringIO(text, newline=""), **form))


def open_delimited(source: object, opened: Callable[[], TextIO], **form: Any) -> Table:
    """Return the table in a text, which is opened anew each time that its rows are gone through."""
    if "delimiter" not in form:
        form["delimiter"] = _delimiter(source, opened, form)
    return as_table(source, lambda: _cells(source, opened, form))


@contextlib.contextmanager
def long_fields(characters: int) -> Iterator[None]:
    """Let the csv module take fields of so many characters."""
    # It takes none above 128 KiB unless told; it is told for all, so what it was told is put back.
    limit = csv.field_size_limit(max(characters, csv.field_size_limit()))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def as_table(source: object, rows: Callable[[], Iterator[Cells]]) -> Table:
    """Return rows of cells as a table, with the names of the first row, or made ones where it holds no names."""
    all_rows = _without_blank_end(rows())
    number, first = next(all_rows, (1, []))
    names = tuple("" if name is None else str(name) for name in first)
    if _is_data(first, (cells for _, cells in all_rows)):
        names = tuple(f"column_{position}" for position in range(1, len(names) + 1))
        warnings.warn(
            f"{source}: the first row is no header, and was read as a row; its columns are called {first_ten(names)}",
            RuntimeWarning,
            stacklevel=4,
        )
        return Table(source, names, False, rows)
    # As a dict of fields, the last of them would win without a word.
    if twice := sorted(str(name) for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{source}:{number}: column {twice[0]!r} is there twice; give every column its own name")
    return Table(source, names, True, rows)


def _without_blank_end(rows: Iterator[Cells]) -> Iterator[Cells]:
    blank = 0
    for line, cells in rows:
        if not cells:
            blank += 1
            continue
        # Blank rows stand on lines one after the other.
        yield from ((line - ahead, []) for ahead in range(blank, 0, -1))
        blank = 0
        yield line, cells


def _is_data(first: Sequence[Any], others: Iterable[Sequence[Any]]) -> bool:
    """Return whether a first row holds values: a number, or what a later row has in the same column."""
    if any(str(cell).strip().lower() in NAMES for cell in first):
        return False
    is_number = any(_NUMBER.fullmatch(str(cell).strip()) for cell in first)
    # No longer than needed: the rows may be read from a large file.
    for cells in filter(None, others):
        # Files that were put together have their header in the middle too.
        comparable = len(first) > 1 and len(cells) == len(first) and list(cells) != list(first)
        if is_number or (comparable and any(cell and cells[i] == cell for i, cell in enumerate(first))):
            return True
    return False


def _delimiter(source: object, opened: Callable[[], TextIO], form: Any) -> str:
    for delimiter, name in DELIMITERS.items():
        if _fits(opened, {**form, "delimiter": delimiter}):
            if delimiter != ",":
                warnings.warn(f"{source}: the columns are parted by a {name}", RuntimeWarning, stacklevel=4)
            return delimiter
    return ","


def _fits(opened: Callable[[], TextIO], form: Any) -> bool:
    """Return whether a delimiter parts all of the first rows into the same number of columns, more than one."""
    try:
        with opened() as text:
            rows = itertools.islice(csv.reader(text, **form), LOOKED_AT)
            counts = {len(cells) for cells in rows if cells}
    except csv.Error:
        return False
    return len(counts) == 1 and counts != {1}


def _cells(source: object, opened: Callable[[], TextIO], form: Any) -> Iterator[Cells]:
    # The reader counts the lines it has read; a record of several lines is named by its first one.
    first = 1
    with opened() as text:
        reader = csv.reader(text, **form)
        try:
            for cells in reader:
                yield first, cells
                first = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{source}:{first}: the record that begins here is broken: {error}") from error


def _record(number: int, cells: Sequence[Any], names: Sequence[str]) -> Record:
    if not cells:
        return number, {}, [Fault(None, "the line is blank; only the end of a file may have blank lines")]
    if len(cells) != len(names):
        what = f"has {len(cells)} fields, but the first line names {len(names)} ({first_ten(names)})"
        return number, {}, [Fault(None, f"{what}; in .csv, a text with a comma or a double quote stands in quotes")]
    return number, dict(zip(names, cells, strict=True)), []
