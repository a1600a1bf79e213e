"""Files of records, of several forms: every record with its line and what is wrong with it as it stands there."""

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bilora.data.faults import BadNumber, Fault, parse_line
from bilora.errors import DataError, first_ten
from bilora.files.formats import plain_file

# Line (of Parquet: row) counted from 1, fields by name, faults of the form.
Record = tuple[int, dict[str, Any], list[Fault]]


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Return the records of a ``.jsonl``, ``.csv`` or ``.tsv`` (each perhaps with ``.gz``) or ``.parquet`` file."""
    path = Path(path)
    for suffix, read in READERS.items():
        if path.name.removesuffix(".gz").endswith(suffix):
            return read(path)
    # Not with .gz: Parquet packs its columns itself.
    if path.suffix == ".parquet":
        return _parquet(path)
    raise DataError(f"{path}: the name ends in none of {', '.join((*READERS, '.parquet'))}; other forms are not read")


def is_untyped(path: str | os.PathLike[str]) -> bool:
    """Return whether a file's form knows text only, so that numbers in it are written as text."""
    return Path(path).name.removesuffix(".gz").endswith((".csv", ".tsv"))


def _json_lines(path: Path) -> list[Record]:
    # Bytes are cut at line feeds only: str.splitlines would also cut at U+2028 inside a text.
    lines = _content(path).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return [(number, *parse_line(line)) for number, line in enumerate(lines, start=1)]


def _content(path: Path) -> bytes:
    plain_file(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    # Excel and PowerShell write a byte order mark, which would be a part of the first name.
    return content.removeprefix(codecs.BOM_UTF8)


def _text(path: Path) -> str:
    content = _content(path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise DataError(f"{path}:{line}: byte {column} is not UTF-8; save the file as UTF-8") from error


def _delimited(path: Path, **form: Any) -> list[Record]:
    text = _text(path)
    # The csv module takes no field above 128 KiB unless told; it is told for all, so what it was told is put back.
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        # newline="": a line end inside of quotes stays as it is.
        lines = list(_cells(path, csv.reader(io.StringIO(text, newline=""), **form)))
    finally:
        csv.field_size_limit(limit)
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        return []
    names = lines[0][1]
    # As a dict of fields, the last of them would win without a word.
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{path}:{lines[0][0]}: column {twice[0]!r} is there twice; give every column its own name")
    return [_record(number, cells, names) for number, cells in lines[1:]]


def _cells(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    # The reader counts the lines it has read; a record of several lines is named by its first one.
    first = 1
    try:
        for cells in reader:
            yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{first}: the record that begins here is broken: {error}") from error


def _record(number: int, cells: Sequence[str], names: Sequence[str]) -> Record:
    if not cells:
        return number, {}, [Fault(None, "the line is blank; only the end of a file may have blank lines")]
    if len(cells) != len(names):
        what = f"has {len(cells)} fields, but the first line names {len(names)} ({first_ten(names)})"
        return number, {}, [Fault(None, f"{what}; in .csv, a text with a comma or a double quote stands in quotes")]
    return number, dict(zip(names, cells, strict=True)), []


def _parquet(path: Path) -> list[Record]:
    # Here, since it takes half a second, which other forms need not wait for.
    from pyarrow import ArrowException, parquet

    plain_file(path)
    try:
        table = parquet.read_table(path)
        rows = table.to_pylist()
    except UnicodeDecodeError:
        return [_cell_by_cell(number, cells) for number, cells in enumerate(_cells_of(table), start=1)]
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for column, names in _class_names(table.schema.metadata).items():
        for row in rows:
            # -1 is the mark of a row without a label.
            if type(row.get(column)) is int and 0 <= row[column] < len(names):
                row[column] = names[row[column]]
    return [(number, row, []) for number, row in enumerate(rows, start=1)]


def _cells_of(table: Any) -> Iterator[dict[str, Any]]:
    for cells in zip(*table.columns, strict=True):
        yield dict(zip(table.column_names, cells, strict=True))


def _cell_by_cell(number: int, cells: Mapping[str, Any]) -> Record:
    """Return a record of a table in which some text is none; its cells are not read before they are asked."""
    row, faults = dict[str, Any](), list[Fault]()
    for name, cell in cells.items():
        try:
            row[name] = cell.as_py()
        except UnicodeDecodeError as error:
            row[name] = BadNumber()
            faults.append(Fault(name, f"byte {error.start + 1} is not UTF-8; write the file again, from text"))
    return number, row, faults


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of the classes of each column that the library datasets has written as a ClassLabel."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        labels = {name: column["names"] for name, column in features.items() if column.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # written by another program
    return {name: list(map(str, names)) for name, names in labels.items() if isinstance(names, list)}


READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".jsonl": _json_lines,
    ".csv": partial(_delimited, delimiter=",", strict=True),
    # Without quoting: GLUE's files have texts that begin with a double quote and do not end with one.
    ".tsv": partial(_delimited, delimiter="\t", quoting=csv.QUOTE_NONE),
}
