"""Files of records of any size, read in parts that fit into memory, as often as asked."""

import codecs
import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from bilora.data.encodings import find_encoding
from bilora.data.faults import BadNumber, Fault, parse_line
from bilora.data.records import CSV, TSV, class_names, read_records, records_of
from bilora.data.tables import Record, long_fields, open_delimited
from bilora.errors import DataError
from bilora.files.formats import plain_file

# Rows of a part, and characters in their texts after which it ends before that.
ROWS, CHARACTERS = 1024, 4_000_000
# Of a field of a .csv; what is longer is likely a quote that nothing closes.
LONGEST_FIELD = 64_000_000


@dataclass(frozen=True)
class Chunks:
    """The records of a file, in lists of bounded size; each iteration reads the file anew."""

    source: str  # what the file is called in messages
    records: Callable[[], Iterator[Record]]
    columns: tuple[str, ...] = ()  # those that the file names before its rows
    schema: Any = None  # that of Arrow, of a form that has one

    def __iter__(self) -> Iterator[list[Record]]:
        """Yield the records from the first one on."""
        records = self.records()
        while chunk := self._next(records):
            yield chunk

    def _next(self, records: Iterator[Record]) -> list[Record]:
        chunk, characters = list[Record](), 0
        with _readable(self.source), long_fields(LONGEST_FIELD):
            for record in records:
                chunk.append(record)
                characters += sum(len(value) for value in record[1].values() if isinstance(value, str))
                if len(chunk) == ROWS or characters > CHARACTERS:
                    break
        return chunk


def open_chunks(path: str | os.PathLike[str], *, form: str | None = None, source: str | None = None) -> Chunks:
    """Return the records of any file that :func:`~bilora.data.records.read_records` reads.

    Args:
        path: The file. Of ``.json`` and ``.xlsx`` all is in memory at once, of other forms a part.
        form: ``csv``, ``tsv`` or ``jsonl``, where the name of the file does not say it.
        source: What the file is called in messages; None is its path.

    Raises:
        DataError: The file cannot be read as what it is called.
    """
    path = plain_file(Path(path))
    source = str(path) if source is None else source
    name = path.name.removesuffix(".gz") if form is None else f".{form}"
    opened = partial(gzip.open, path) if path.suffix == ".gz" else partial(open, path, "rb")
    with _readable(source), long_fields(LONGEST_FIELD):
        if name.endswith(".jsonl"):
            return Chunks(source, partial(_json_lines, opened))  # type: ignore[arg-type]  # two classes of open files
        if name.endswith((".csv", ".tsv")):
            return _delimited(source, opened, CSV if name.endswith(".csv") else TSV)  # type: ignore[arg-type]
        if path.suffix == ".parquet":
            return _parquet(source, path)
    records = read_records(path)
    return Chunks(source, lambda: iter(records))


@contextlib.contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source}: cannot be read: {error}") from error


def _json_lines(opened: Callable[[], BinaryIO]) -> Iterator[Record]:
    blank = 0
    with opened() as lines:
        for number, line in enumerate(lines, start=1):
            # Excel and PowerShell write a byte order mark.
            text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).removesuffix(b"\n")
            if not text.strip():
                blank += 1
                continue
            # Only the end of a file may have blank lines.
            yield from ((number - ahead, *parse_line(b"")) for ahead in range(blank, 0, -1))
            blank = 0
            yield number, *parse_line(text)


def _delimited(source: str, opened: Callable[[], BinaryIO], form: dict[str, Any]) -> Chunks:
    encoding = find_encoding(source, opened, broken=True)
    # It takes the mark, which some programs of Windows write.
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding

    def as_text() -> TextIO:
        # newline="": a line end inside of quotes stays as it is. What is not UTF-8 is the fault of its row.
        return io.TextIOWrapper(opened(), encoding=encoding, errors="surrogateescape", newline="")

    table = open_delimited(source, as_text, **form)
    if broken := [name for name in table.names if _broken(name)]:
        raise DataError(f"{source}: the name of column {broken[0]!r} is not UTF-8; save the file as UTF-8")
    return Chunks(source, lambda: map(_whole, table), table.names)


def _broken(text: str) -> bool:
    # The escapes that stand for bytes which are no UTF-8.
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


def _whole(record: Record) -> Record:
    line, row, faults = record
    if not (wrong := [name for name, cell in row.items() if _broken(cell)]):
        return record
    more = [Fault(name, "is not UTF-8; save the file as UTF-8") for name in wrong]
    return line, {**row, **dict.fromkeys(wrong, BadNumber())}, [*faults, *more]


def _parquet(source: str, path: Path) -> Chunks:
    # Here, since it takes half a second, which other forms need not wait for.
    from pyarrow import ArrowException, parquet

    def opened() -> Any:
        # In pieces: by default the columns of a whole group of rows, perhaps the file, would be in memory.
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)

    def records() -> Iterator[Record]:
        first = 1
        try:
            with opened() as file:
                names = class_names(file.schema_arrow.metadata)
                for batch in file.iter_batches(batch_size=ROWS):
                    yield from records_of(batch, names, first=first)
                    first += len(batch)
        except (OSError, ArrowException) as error:
            raise DataError(f"{source}: cannot be read: {error}") from error

    try:
        with opened() as file:
            schema = file.schema_arrow
    except (OSError, ArrowException) as error:
        raise DataError(f"{source}: cannot be read: {error}") from error
    # Their values are read as the names of the classes.
    for column in class_names(schema.metadata).keys() & set(schema.names):
        schema = _as_text(schema, column)
    return Chunks(source, records, tuple(schema.names), schema.remove_metadata())


def _as_text(schema: Any, column: str) -> Any:
    import pyarrow

    place, kind = schema.get_field_index(column), pyarrow.string()
    lists = pyarrow.types.is_list(schema.field(place).type) or pyarrow.types.is_large_list(schema.field(place).type)
    return schema.set(place, pyarrow.field(column, pyarrow.list_(kind) if lists else kind))
