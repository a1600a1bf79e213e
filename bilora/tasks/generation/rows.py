"""Where a data-to-text task's rows come from, one row a meaning representation with all its references."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

from bilora.data.rows import Rows, check_records, read_rows
from bilora.data.tables import Record
from bilora.errors import DataError
from bilora.tasks.sources import SetFiles
from bilora.tasks.task import AnyTask

Numbered = tuple[int, dict[str, Any]]


def read_generation_file(path: Path, task: AnyTask, *, split: str) -> Rows:
    """Return the checked rows of a file; in ``.json`` and ``.xml`` the number in an error is that of the entry."""
    entries = read_entries(path)
    if entries is None:
        return read_rows(path, task, split=split)
    return check_records(entries, task, source=str(path), split=split)


def read_entries(path: Path) -> list[Record] | None:
    """Return the entries of a file of one of :data:`READERS`, None of another one."""
    if path.suffix not in READERS:
        return None
    try:
        return [(number, row, []) for number, row in READERS[path.suffix](path)]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _json_rows(path: Path) -> Iterator[Numbered]:
    # "-sig" takes a byte order mark, which tools of Windows write and JSON does not allow.
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, Mapping) and isinstance(content.get("entries"), list):
        # Each entry is wrapped in an object whose only key is its number.
        content = [
            next(iter(entry.values()), None) if isinstance(entry, Mapping) else entry for entry in content["entries"]
        ]
    if not isinstance(content, list):
        raise DataError(f"{path}: holds neither a list of entries nor an object with 'entries'")
    for number, row in enumerate(content, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: the entry is {type(row).__name__}; an object is needed")
        yield number, row


def _xml_rows(path: Path) -> Iterator[Numbered]:
    for number, entry in enumerate(ElementTree.parse(path).iter("entry"), start=1):
        triples = [(triple.text or "").split(" | ") for triple in entry.iterfind("modifiedtripleset/mtriple")]
        # The whole text of an element, also where tags stand in it.
        texts = [{"lex": "".join(lex.itertext()), "comment": lex.get("comment", "")} for lex in entry.iterfind("lex")]
        yield number, {"id": entry.get("eid"), "triples": triples, "lexicalisations": texts}


# How each kind of file that :mod:`bilora.data.records` does not know is read.
READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".json": _json_rows,  # DART: a list of entries; WebNLG: {"entries": [{"1": entry}, ...]}
    ".xml": _xml_rows,  # WebNLG and DART
}

SET_FILES = SetFiles(
    suffixes=(".jsonl", ".jsonl.gz", ".csv", ".json", ".xml"),
    # The names that the sets come with.
    stems={
        "train": ("trainset", "dart-v1.1.1-full-train"),
        "validation": ("dev", "valid", "devset", "dart-v1.1.1-full-dev"),
        "test": ("testset_w_refs", "dart-v1.1.1-full-test"),
    },
    read=read_generation_file,
)


def join_references(rows: Rows) -> Rows:
    """Return one row an input, with the references of all the rows of that input, in order of first appearance."""
    # E2E's files have a line per reference. Rows with the same input must not be split, nor scored more than once.
    places: dict[str, int] = {}
    texts: dict[str, list[str]] = {}
    for index, row in enumerate(rows):
        places.setdefault(row["source"], index)
        texts.setdefault(row["source"], []).extend(row["references"])
    kept = rows.select(places.values())
    joined = tuple(MappingProxyType({**row, "references": texts[row["source"]]}) for row in kept)
    return Rows(joined, kept.source, kept.lines, kept.ids)
