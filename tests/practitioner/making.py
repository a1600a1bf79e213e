"""Sixty and more labelled files as people have them, each odd in one way, made from code."""

import csv
import io
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
from pyarrow import parquet

Maker = Callable[[Path], Path]
Row = dict[str, Any]

SUBJECTS = ("the film", "this book", "our hotel", "the new phone", "her speech", "the service", "that song", "the soup")
VERBS = ("was", "turned out", "seemed", "looked", "became", "felt", "sounded", "stayed")
GOOD, BAD = ("lovely", "bright", "warm", "clever", "fresh"), ("dull", "broken", "cold", "stale", "awful")
PLACES = (
    "in Rome",
    "on Monday",
    "at night",
    "for once",
    "to us",
    "again",
    "by far",
    "all week",
    "at home",
    "last year",
)


def sentences(count: int, *, kinds: int = 2) -> list[tuple[str, int]]:
    """Return different sentences, each with a number from 0 to ``kinds - 1``, equally many of each."""
    numbers = random.Random(18)
    seen: dict[str, int] = {}
    while len(seen) < count:
        kind = len(seen) % kinds
        word = numbers.choice(BAD if kind * 2 < kinds else GOOD)
        text = " ".join((numbers.choice(SUBJECTS), numbers.choice(VERBS), word, numbers.choice(PLACES)))
        seen.setdefault(f"{text}, number {len(seen)}", kind)
    return list(seen.items())


def labelled(
    count: int = 60, names: Sequence[Any] = ("negative", "positive"), *, text: str = "text", label: str = "label"
) -> list[Row]:
    """Return rows of a text and one of the labels, in turn."""
    return [{text: sentence, label: names[kind]} for sentence, kind in sentences(count, kinds=len(names))]


def delimited(rows: Iterable[Row], delimiter: str = ",", *, header: bool = True, end: str = "\n") -> str:
    """Return rows as the text of a table."""
    rows, text = list(rows), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=end)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def lines(rows: Iterable[Row]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def written(name: str, content: str | bytes, encoding: str = "utf-8") -> Maker:
    """Return what writes a file of that name."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return make


def table(rows: Iterable[Row], name: str = "rows.csv", **form: Any) -> Maker:
    """Return what writes a table of text."""
    return written(name, delimited(rows, **form))


def json_lines(rows: Iterable[Row], name: str = "rows.jsonl") -> Maker:
    """Return what writes JSON lines."""
    return written(name, lines(rows))


def arrow(rows: list[Row], classes: dict[str, Any] | None = None) -> bytes:
    """Return a parquet file, as the library datasets writes it where some columns are of classes."""
    whole = pyarrow.Table.from_pylist(rows)
    if classes is not None:
        info = json.dumps({"info": {"features": classes}})
        whole = whole.replace_schema_metadata({"huggingface": info})
    sink = io.BytesIO()
    parquet.write_table(whole, sink)
    return sink.getvalue()


def sheet(rows: list[Row], *, more: bool = False) -> bytes:
    """Return a spreadsheet, with a second sheet if there are to be more."""
    book = openpyxl.Workbook()
    for cells in (list(rows[0]), *(list(row.values()) for row in rows)):
        book.active.append(cells)
    if more:
        book.create_sheet("notes")
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def several(*makers: Maker, folder: str = "rows") -> Maker:
    """Return what writes several files into a folder, which is what is trained on."""

    def make(around: Path) -> Path:
        for maker in makers:
            maker(around / folder)
        return around / folder

    return make


def nothing(name: str) -> Maker:
    """Return what writes no file."""
    return lambda folder: folder / name


@dataclass(frozen=True)
class Trained:
    """The end of a file that is trained on: its columns, its kind of task, its labels, and what is said of it."""

    texts: tuple[str, ...]
    label: str
    kind: str
    labels: tuple[str, ...] = ()  # none for quantities and texts
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """The end of a file that cannot be trained on: one line in which each of these stands, and exit code 2."""

    said: tuple[str, ...]


@dataclass(frozen=True)
class OddFile:
    """A file, the words beside ``--train-file``, and the end that is expected."""

    make: Maker
    end: Trained | Refused
    words: tuple[str, ...] = ()
    runs: bool = False  # whether it is trained on in the test, not only prepared
