"""Files of records, of several forms: every record with its line and what is wrong with it as it stands there."""

import csv
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bilora.data.faults import Fault, parse_line
from bilora.errors import DataError

Record = tuple[int, dict[str, Any], list[Fault]]
"""Line (of Parquet: row) counted from 1, fields by name, faults of the form."""

_BOM = b"\xef\xbb\xbf"


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Return the records of a ``.jsonl``, ``.csv`` or ``.tsv`` (each perhaps with ``.gz``) or ``.parquet`` file."""
    path = Path(path)
    form = path.name.removesuffix(".gz")
    for suffix, read in READERS.items():
        if form.endswith(suffix):
            return read(path)
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


def _comma_separated(path: Path) -> list[Record]:
    return _delimited(path, delimiter=",", strict=True)


def _tab_separated(path: Path) -> list[Record]:
    return _delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE)


READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".jsonl": _json_lines,
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
}


def _content(path: Path) -> bytes:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return content.removeprefix(_BOM)


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
        lines = list(_cells(path, csv.reader(io.StringIO(text, newline=""), **form)))
    finally:
        csv.field_size_limit(limit)
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        return []
    names = lines[0][1]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}:{lines[0][0]}: column {twice[0]!r} is there twice; give every column its own name")
    return [_record(number, cells, names) for number, cells in lines[1:]]


def _cells(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
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
        what = f"has {len(cells)} fields, but the first line names {len(names)} ({', '.join(names)})"
        return number, {}, [Fault(None, f"{what}; in .csv, a text with a comma or a double quote stands in quotes")]
    return number, dict(zip(names, cells, strict=True)), []


def _parquet(path: Path) -> list[Record]:
    from pyarrow import ArrowException, parquet  # half a second, which other forms need not wait for

    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return [(number, row, []) for number, row in enumerate(rows, start=1)]
