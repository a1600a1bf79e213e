"""Rows written one part after another as CSV, TSV, JSON lines or Parquet."""

import base64
import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TextIO

from bilora.errors import DataError
from bilora.files.formats import finite_or_null, in_one_line

Rows = Sequence[Mapping[str, Any]]

# Rows of a group of a Parquet file: fewer would make it large, and more are all in memory.
GROUP = 8192


class RowWriter(Protocol):
    """Takes the rows of a file in their order."""

    mended: int  # cells that were written with spaces in place of tabs and line ends

    def write(self, rows: Rows) -> None:
        """Write some more rows."""

    def close(self) -> None:
        """Write the end of the file."""


class JsonLines:
    """Writes one JSON object a row, each with the row's own fields."""

    mended = 0

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, rows: Rows) -> None:
        """Write some more rows."""
        self.file.writelines(as_json(row) + "\n" for row in rows)

    def close(self) -> None:
        """Hand on what is buffered."""
        self.file.flush()


class Delimited:
    """Writes a header and one line a row, in which a cell that is no text, number or truth value is JSON."""

    def __init__(self, file: TextIO, columns: Sequence[str], **form: Any) -> None:
        self.file, self.columns = file, columns
        # The writer puts those characters in quotes that end its lines: so both of them, and one is taken off again.
        self.writer = csv.writer(_Lines(file), lineterminator="\r\n", **form)
        # Without quotes nothing tells a tab or a line end in a text from those between cells.
        self.bare, self.mended = form.get("quoting") == csv.QUOTE_NONE, 0
        self.writer.writerow(self._cell(name) for name in columns)

    def write(self, rows: Rows) -> None:
        """Write some more rows."""
        self.writer.writerows([self._cell(row.get(name)) for name in self.columns] for row in rows)

    def close(self) -> None:
        """Hand on what is buffered."""
        self.file.flush()

    def _cell(self, value: Any) -> str | int | float:
        if value is None:
            return ""
        if isinstance(value, int | float):  # truth values too
            return value
        text = value if isinstance(value, str) else as_json(value) if _is_nested(value) else str(_plain(value))
        if self.bare and not text.isprintable() and (mended := re.sub(r"\r\n|[\r\n\t]", " ", text)) != text:
            self.mended += 1
            return mended
        return text


class _Lines:
    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, line: str) -> int:
        """Write a line with the end that all systems know."""
        return self.file.write(line.removesuffix("\r\n") + "\n")


class Parquet:
    """Writes the columns of a schema, in groups of rows."""

    mended = 0

    def __init__(self, path: Path, schema: Any) -> None:
        from pyarrow import parquet

        self.schema, self.rows = schema, list[Mapping[str, Any]]()
        self.writer = parquet.ParquetWriter(path, schema)

    def write(self, rows: Rows) -> None:
        """Write some more rows."""
        self.rows += rows
        while len(self.rows) >= GROUP:
            self._write_group()

    def close(self) -> None:
        """Write the rest, and the end of the file."""
        with ExitStack() as stack:
            stack.callback(self.writer.close)
            if self.rows:
                self._write_group()

    def _write_group(self) -> None:
        import pyarrow

        group, self.rows = self.rows[:GROUP], self.rows[GROUP:]
        self.writer.write_table(pyarrow.Table.from_pylist(group, schema=self.schema))


def schema_of(rows: Rows, *, before: Any = None) -> Any:
    """Return the Arrow schema of rows, joined with that of rows before.

    Raises:
        DataError: Values of one column are of types that no column holds together.
    """
    import pyarrow

    names = list(dict.fromkeys(name for row in rows for name in row))
    fields = []
    for name in names:
        try:
            fields.append(pyarrow.field(name, pyarrow.array([row.get(name) for row in rows]).type))
        except (pyarrow.ArrowException, OverflowError) as error:
            raise _mixed(name, error) from error
    found = pyarrow.schema(fields)
    if before is None:
        return found
    try:
        return pyarrow.unify_schemas([before, found], promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise _mixed(in_one_line(error), error) from error


def _mixed(name: str, error: Exception) -> DataError:
    return DataError(
        f"column {name!r} holds values of several types ({in_one_line(error)}), which .parquet cannot; write .jsonl"
    )


def settled(schema: Any) -> Any:
    """Return a schema in which columns without any value hold text, and all may be empty."""
    import pyarrow

    def settled_type(kind: Any) -> Any:
        if pyarrow.types.is_null(kind):
            return pyarrow.string()
        return pyarrow.list_(settled_type(kind.value_type)) if pyarrow.types.is_list(kind) else kind

    return pyarrow.schema([field.with_type(settled_type(field.type)).with_nullable(True) for field in schema])


def as_json(value: Any) -> str:
    """Return a value as strict JSON in one line, with null for what is no number and text for dates."""
    return json.dumps(finite_or_null(value), ensure_ascii=False, allow_nan=False, default=_plain)


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _plain(value: Any) -> str:
    """Return as text what a Parquet file may hold and JSON may not."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


TEXT_WRITERS: Mapping[str, Callable[[TextIO, Sequence[str]], RowWriter]] = {
    ".jsonl": lambda file, columns: JsonLines(file),
    ".csv": Delimited,
    # Without quoting, as .tsv is read: GLUE's files have texts that begin with a double quote.
    ".tsv": lambda file, columns: Delimited(file, columns, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None),
}
"""How each form of text is written, by the end of the file's name."""

SUFFIXES = (*TEXT_WRITERS, ".parquet")
