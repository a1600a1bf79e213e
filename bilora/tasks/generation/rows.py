"""Where a data-to-text task's rows come from, one row a meaning representation with all its references."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

from bilora.data.rows import Rows, check_rows, read_rows
from bilora.data.sets import TaskRows
from bilora.errors import DataError
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.sources import ask_hub
from bilora.tasks.task import AnyTask

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


SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".json", ".xml")

STEMS: dict[str, tuple[str, ...]] = {
    "train": ("train", "trainset", "dart-v1.1.1-full-train"),
    "validation": ("validation", "dev", "valid", "devset", "dart-v1.1.1-full-dev"),
    "test": ("test", "testset_w_refs", "dart-v1.1.1-full-test"),
}
"""Names of a set's file, without the suffix; the first is ours, the others are those that the sets come with."""


def load_generation_rows(task: GenerationTask, *, data_dir: str | os.PathLike[str] | None = None) -> TaskRows:
    """Return the checked rows of a task, those with the same input joined.

    Args:
        task: Says which sets are read.
        data_dir: Holds ``<task>/train.jsonl`` and the other sets, or the files as their authors publish them; None
            asks the hub.

    Returns:
        Training rows, scored rows, D2 where the task says that a set of its own is, and notices.

    Raises:
        DataError: A file or row cannot be used, or the hub gives no answer; says what to do.
    """
    names = ["train", *([] if task.upper_split is None else [task.upper_split]), *task.validation_splits]
    sets = _from_hub(task, names) if data_dir is None else _from_folder(task, names, Path(data_dir) / task.name)
    blank = {name: sum(row["blank"] for row in rows) for name, rows in sets.items()}
    joined = {name: join_references(rows) for name, rows in sets.items()}
    upper = None if task.upper_split is None else joined[task.upper_split]
    scored = {name: joined[name] for name in task.validation_splits}
    return TaskRows(task, joined["train"], scored, (*_blanks(blank), *_shared(task, joined)), upper=upper)


def join_references(rows: Rows) -> Rows:
    """Return one row an input, with the references of all the rows of that input, in order of first appearance.

    Example:
        >>> pair = [(1, {"source": "a", "references": ["x"]}), (2, {"source": "a", "references": ["y"]})]
        >>> rows = check_rows(pair, GenerationTask("toy"), source="toy", split="train")
        >>> joined = join_references(rows)
        >>> len(joined), joined[0]["references"], joined.lines
        (1, ['x', 'y'], (1,))
    """
    places: dict[str, int] = {}
    texts: dict[str, list[str]] = {}
    for index, row in enumerate(rows):
        places.setdefault(row["source"], index)
        texts.setdefault(row["source"], []).extend(row["references"])
    kept = rows.select(places.values())
    joined = tuple(MappingProxyType({**row, "references": texts[row["source"]]}) for row in kept)
    return Rows(joined, kept.source, kept.lines, kept.ids)


def _from_folder(task: GenerationTask, names: Iterable[str], folder: Path) -> dict[str, Rows]:
    return {name: read_generation_file(_file(folder, name, task), task, split=name) for name in names}


def _file(folder: Path, name: str, task: GenerationTask) -> Path:
    stems = STEMS.get(name, (name,))
    found = [path for stem in stems for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{folder} has more than one {name} set: {', '.join(each.name for each in found)}; keep one")
    here = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise DataError(
        f"{folder} has no {name} set (looked for {', '.join(stems)} with {', '.join(SUFFIXES)}); it has: "
        f"{', '.join(here) or 'nothing'}; {_cure(task)}"
    )


def _cure(task: GenerationTask) -> str:
    return f"give --data-dir DIR with DIR/{task.name}/train.jsonl and the other sets beside it"


def _from_hub(task: GenerationTask, names: Iterable[str]) -> dict[str, Rows]:
    if task.hub is None:
        raise DataError(f"task {task.name!r} needs data: {_cure(task)}")
    sets = ask_hub(task.hub, task.hub_config, cure=_cure(task))
    return {name: _hub_rows(task, name, sets) for name in names}


def _hub_rows(task: GenerationTask, name: str, sets: Mapping[str, Any]) -> Rows:
    for stem in STEMS.get(name, (name,)):
        if stem in sets:
            return check_rows(enumerate(sets[stem], start=1), task, source=f"{task.hub}/{stem}", split=name)
    raise DataError(f"{task.hub} has no {name} set; it has: {', '.join(sets)}; {_cure(task)}")


def _blanks(blank: Mapping[str, int]) -> Iterable[str]:
    return (f"{count} blank references of the {name} set are left out" for name, count in blank.items() if count)


def _shared(task: GenerationTask, sets: Mapping[str, Rows]) -> Iterable[str]:
    seen = {task.text_of(row) for row in sets["train"]}
    for name, rows in sets.items():
        shared = sum(task.text_of(row) in seen for row in rows)
        if name != "train" and shared:
            yield f"{shared} of {len(rows)} {name} rows have the input of a training row"
