"""Which files of a folder are the training, the validation and the test rows, by the names that the hub goes by."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from bilora.data.records import READERS, TABLES
from bilora.errors import DataError, first_ten

# The words of a name, of a file or of a folder around it, that say which set it is.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORD = re.compile(r"[^-._ /]+")


@dataclass(frozen=True)
class SetPaths:
    """The files of each set, below a folder: the name of one file, or a pattern with a ``*`` for several."""

    train: str
    validation: str | None = None
    test: str | None = None


def find_set_files(names: Iterable[str], *, source: str, part: str | None = None) -> SetPaths:
    """Return which of the files ``names``, paths below a folder, hold the rows of which set.

    Args:
        names: With slashes between folders.
        source: What the folder is called in messages.
        part: The only one of the folders below it that is looked into; None looks into all.

    Raises:
        DataError: No file is of the training set, or it is not clear which.
    """
    all_names = [name for name in sorted(names) if _is_read(name)]
    here = [name for name in all_names if part is None or part in PurePosixPath(name).parts[:-1]]
    sets: dict[str, list[str]] = {name: [] for name in WORDS}
    for name in here:
        if (of_set := _set_of(name)) is not None:
            sets[of_set].append(name)
    # A file that stands alone need not say what it is for.
    train = sets["train"] or (here if len(here) == 1 else [])
    if not train:
        has = first_ten(all_names) or "no file of rows"
        raise DataError(
            f"{source} has no train set{'' if part is None else f' in {part}'} (a file train.csv, .jsonl, .parquet or "
            f"the like); it has: {has}; name the file"
        )
    folders = sorted({"/".join(_plain_parts(name)) or "." for name in train})
    if len(folders) > 1:
        raise DataError(f"{source} has several train sets, in {first_ten(folders)}; name one of these folders")
    of_folder = {
        name: [file for file in files if "/".join(_plain_parts(file)) in (folders[0], "")]
        for name, files in sets.items()
    }
    return SetPaths(
        _as_one(train, here, source=source),
        *(
            _as_one(of_folder[name], here, source=source) if of_folder[name] else None
            for name in ("validation", "test")
        ),
    )


def _is_read(name: str) -> bool:
    path = PurePosixPath(name)
    readable = path.name.removesuffix(".gz").endswith((*READERS, *TABLES))
    return readable and not any(part.startswith((".", "_")) for part in path.parts)


def _set_of(name: str) -> str | None:
    *folders, file = PurePosixPath(name).parts
    # What the file itself is called counts first; a.train.csv, test-00000-of-00001.parquet, val/0.jsonl.
    for part in (file, *reversed(folders)):
        words = [word.lower() for word in _WORD.findall(part)]
        found = [of_set for of_set, known in WORDS.items() if any(word in known for word in words)]
        if len(found) == 1:
            return found[0]
    return None


def _plain_parts(name: str) -> list[str]:
    """Return the folders of a file without those that say which set it is."""
    every = {word for words in WORDS.values() for word in words}
    return [part for part in PurePosixPath(name).parts[:-1] if part.lower() not in every]


def _as_one(names: Sequence[str], others: Sequence[str], *, source: str) -> str:
    if len(names) == 1:
        return names[0]
    first, last = PurePosixPath(names[0]), PurePosixPath(names[-1])
    start = next((at for at, pair in enumerate(zip(first.name, last.name, strict=False)) if pair[0] != pair[1]), 0)
    pattern = str(first.with_name(f"{first.name[:start].rstrip('0123456789')}*{''.join(first.suffixes)}"))
    # The parts of one set are called alike, and stand side by side.
    if [name for name in others if fnmatchcase(name, pattern)] != list(names):
        raise DataError(f"{source}: {first_ten(names)} could each be the same set; keep one of them, or name the file")
    return pattern
