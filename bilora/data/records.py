"""Files of records, of several forms: every record with its line and what is wrong with it as it stands there."""

import codecs
import csv
import datetime
import gzip
import itertools
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bilora.data.encodings import decode
from bilora.data.faults import STRICT, BadNumber, Fault, parse_line, parsed_row
from bilora.data.tables import Record, as_table, read_delimited
from bilora.errors import DataError
from bilora.files.formats import in_one_line, plain_file


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Return the records of a file of text (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, each perhaps with ``.gz``), of a
    ``.parquet`` or of an ``.xlsx`` file."""
    path = Path(path)
    if len(parts := files_of(path)) != 1:
        if not parts:
            raise DataError(f"there is no file {path}; give the file, or the folder of the sets")
        # Parts of one set, whose rows are numbered as one.
        records = itertools.chain.from_iterable(map(read_records, parts))
        return [(number, row, faults) for number, (_, row, faults) in enumerate(records, start=1)]
    path = parts[0]
    for suffix, read in READERS.items():
        if path.name.removesuffix(".gz").endswith(suffix):
            return read(path)
    # Not with .gz: they pack what they hold themselves.
    if path.suffix in TABLES:
        return TABLES[path.suffix](path)
    raise DataError(f"{path}: the name ends in none of {', '.join((*READERS, *TABLES))}; other forms are not read")


def files_of(place: Path) -> list[Path]:
    """Return the file of that name, or in order those that a name with a ``*`` means."""
    return sorted(place.parent.glob(place.name)) if "*" in place.name and not place.exists() else [place]


def is_untyped(path: str | os.PathLike[str]) -> bool:
    """Return whether a file's form knows text only, so that numbers in it are written as text."""
    return Path(path).name.removesuffix(".gz").endswith((".csv", ".tsv"))


def _json_lines(path: Path) -> list[Record]:
    # Bytes are cut at line feeds only: str.splitlines would also cut at U+2028 inside a text.
    # Excel and PowerShell write a byte order mark.
    lines = _content(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return [(number, *parse_line(line)) for number, line in enumerate(lines, start=1)]


def _content(path: Path) -> bytes:
    plain_file(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return content


def _delimited(path: Path, **form: Any) -> list[Record]:
    return read_delimited(path, decode(path, _content(path)), **form)


def _json(path: Path) -> list[Record]:
    """Return the records of an array of objects, of an object of arrays (its columns), or of lines of objects."""
    text = decode(path, _content(path))
    try:
        whole = json.loads(text, **STRICT)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # lines of objects, for which this name is in use too
            return _json_lines(path)
        raise DataError(f"{path}:{error.lineno}: column {error.colno}: {error.msg}; it is no JSON") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {in_one_line(error)}") from error
    rows, escaped = _rows_of(path, whole), "\\u" in text
    return [(number, *parsed_row(row, escaped=escaped)) for number, row in enumerate(rows, start=1)]


def _rows_of(path: Path, whole: Any) -> list[Any]:
    if isinstance(whole, list):
        return whole
    lists = {name: value for name, value in whole.items() if isinstance(value, list)} if isinstance(whole, dict) else {}
    tables = [value for value in lists.values() if value and all(isinstance(row, dict) for row in value)]
    if len(tables) == 1:  # beside what else is said of them, such as a version
        return tables[0]
    lengths = {len(values) for values in lists.values()}
    if lists and len(lists) == len(whole) and len(lengths) == 1:
        return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    raise DataError(
        f"{path}: holds neither an array of objects, nor an object of arrays of one length; write one row as one object"
    )


def _spreadsheet(path: Path) -> list[Record]:
    plain_file(path)
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise DataError(f"{path}: to read it a package is missing; run pip install 'bilora[xlsx]'") from error
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        first, *others = book.worksheets
        rows = [(number, _filled(cells)) for number, cells in enumerate(first.iter_rows(values_only=True), start=1)]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read: {in_one_line(error) or type(error).__name__}") from error
    if others:
        what = f"of its {len(others) + 1} sheets the first, {first.title!r}, was read"
        warnings.warn(f"{path}: {what}", RuntimeWarning, stacklevel=3)
    width = max((len(cells) for _, cells in rows), default=0)
    full = ((number, [*cells, *[None] * (width - len(cells))] if cells else []) for number, cells in rows)
    cells_by_line = list(full)
    return list(as_table(path, lambda: iter(cells_by_line)))


def _filled(cells: Sequence[Any]) -> list[Any]:
    """Return the cells of a row of a spreadsheet, dates as text, without the empty ones at its end."""
    values = [cell.isoformat() if isinstance(cell, datetime.date | datetime.time) else cell for cell in cells]
    while values and values[-1] is None:
        values.pop()
    return values


def _parquet(path: Path) -> list[Record]:
    # Here, since it takes half a second, which other forms need not wait for.
    from pyarrow import ArrowException, parquet

    plain_file(path)
    try:
        table = parquet.read_table(path)
        return records_of(table, class_names(table.schema.metadata))
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def records_of(table: Any, names: Mapping[str, Sequence[str]], *, first: int = 1) -> list[Record]:
    """Return the rows of an Arrow table or batch, numbered from ``first``, with the names of their classes."""
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError:
        return [_cell_by_cell(number, cells) for number, cells in enumerate(_cells_of(table), start=first)]
    for column, of_column in names.items():
        for row in rows:
            row[column] = _named(row.get(column), of_column)
    return [(number, row, []) for number, row in enumerate(rows, start=first)]


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):  # the tags of a row
        return [_named(item, names) for item in value]
    # -1 is the mark of a row without a label.
    return names[value] if type(value) is int and 0 <= value < len(names) else value


def _cells_of(table: Any) -> Iterator[dict[str, Any]]:
    for cells in zip(*table.columns, strict=True):
        yield dict(zip(table.schema.names, cells, strict=True))


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


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of the classes of each column that the library datasets has written as ClassLabel, or as lists
    of them."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        # Of a list the feature inside, which has stood in a list itself.
        inside = {name: column[0] if isinstance(column, list) else column for name, column in features.items()}
        inside = {name: column.get("feature", column) for name, column in inside.items()}
        labels = {name: column["names"] for name, column in inside.items() if column.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # written by another program
    return {name: list(map(str, names)) for name, names in labels.items() if isinstance(names, list)}


CSV: dict[str, Any] = {"strict": True}
# Without quoting: GLUE's files have texts that begin with a double quote and do not end with one.
TSV: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}

READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": partial(_delimited, **CSV),
    ".tsv": partial(_delimited, **TSV),
}

TABLES: dict[str, Callable[[Path], list[Record]]] = {".parquet": _parquet, ".xlsx": _spreadsheet}
