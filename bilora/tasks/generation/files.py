"""The files that data-to-text sets are published in, as rows with their line or entry numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bilora.data.rows import Rows, check_rows, read_rows
from bilora.data.task_protocol import AnyTask
from bilora.errors import DataError

Numbered = tuple[int, dict[str, Any]]


def read_generation_file(path: Path, task: AnyTask, *, split: str) -> Rows:
    """Return the checked rows of a file.

    ``.jsonl`` and ``.jsonl.gz`` hold one object a line; ``.csv`` one reference a line, with a header (E2E's form);
    ``.json`` a list of entries (DART's form), or ``{"entries": [{"1": entry}, ...]}`` (WebNLG's form); ``.xml``
    entries of WebNLG's and DART's form. In the last two the number in an error is that of the entry.

    Args:
        path: The file.
        task: Checks each row.
        split: What the rows are for, for the error text.

    Raises:
        DataError: The file cannot be read, or rows are at fault; names file, line and field.
    """
    if path.suffix not in READERS:
        return read_rows(path, task, split=split)
    try:
        rows = list(READERS[path.suffix](path))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return check_rows(rows, task, source=str(path), split=split)


def _csv_rows(path: Path) -> Iterator[Numbered]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}:{reader.line_num}: has not as many fields as the header")
            yield reader.line_num, dict(row)


def _json_rows(path: Path) -> Iterator[Numbered]:
    found = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(found, Mapping) and isinstance(found.get("entries"), list):
        # Each entry is wrapped in an object whose only key is its number.
        found = [next(iter(each.values()), None) if isinstance(each, Mapping) else each for each in found["entries"]]
    if not isinstance(found, list):
        raise DataError(f"{path}: holds neither a list of entries nor an object with 'entries'")
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: the entry is {type(row).__name__}; an object is needed")
        yield number, row


def _xml_rows(path: Path) -> Iterator[Numbered]:
    for number, entry in enumerate(ElementTree.parse(path).iter("entry"), start=1):
        triples = [(each.text or "").split(" | ") for each in entry.iterfind("modifiedtripleset/mtriple")]
        texts = [
            {"lex": "".join(each.itertext()), "comment": each.get("comment", "")} for each in entry.iterfind("lex")
        ]
        yield number, {"id": entry.get("eid"), "triples": triples, "lexicalisations": texts}


READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {".csv": _csv_rows, ".json": _json_rows, ".xml": _xml_rows}
"""How each kind of file beside JSON lines is read."""
