"""Where a task's rows come from: a folder, the packages of the embedded default, or the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilora.data.rows import Rows, check_rows, read_rows
from bilora.data.sets import TaskRows, join_sets, shared_texts
from bilora.data.strata import draw_rows, make_strata, share_out
from bilora.errors import DataError
from bilora.tasks.catalog import find_task
from bilora.tasks.embedded import embedded_reviews
from bilora.tasks.task import AnyTask

EMBEDDED_TASK = "rotten_tomatoes"
EMBEDDED_VALIDATION_ROWS = 1000
SUFFIXES = (".jsonl", ".jsonl.gz")
HUB_SECONDS = 3.0


def load_task_rows(
    task: AnyTask | str, *, data_dir: str | os.PathLike[str] | None = None, hub: bool = True
) -> TaskRows:
    """Return the checked rows of a task: from a folder, else the embedded ones, else from the hub.

    Args:
        task: The task or its name.
        data_dir: Holds ``<task>/train.jsonl[.gz]`` and ``<task>/validation*.jsonl[.gz]``.
        hub: Whether the hub may be asked when there is no ``data_dir``.

    Returns:
        Training rows, validation rows, and notices of sets that are missing and of texts in both.

    Raises:
        DataError: A file or row cannot be used, or the hub gives no answer; says what to do.

    Example:
        >>> load_task_rows("mrpc", hub=False)
        Traceback (most recent call last):
            ...
        bilora.errors.DataError: task 'mrpc' needs data: give --data-dir DIR with DIR/mrpc/train.jsonl and \
DIR/mrpc/validation.jsonl (.gz allowed)
    """
    task = find_task(task) if isinstance(task, str) else task
    if data_dir is not None:
        return _from_folder(task, Path(data_dir) / task.name)
    if task.name == EMBEDDED_TASK:
        return _from_package(task)
    if hub and task.hub is not None:
        return _from_hub(task, task.hub)
    raise DataError(f"task {task.name!r} needs data: {_folder_cure(task)}")


def take_rows(rows: Rows, n: int, *, seed: int) -> Rows:
    """Return a stratified random choice of ``n`` rows, in the order of the file.

    Args:
        rows: The rows to choose from.
        n: How many; each class keeps its share (exact to rounding) and, if ``n`` allows, at least a row.
        seed: The same seed gives the same choice.

    Returns:
        The chosen rows, with their origins and ids.

    Raises:
        DataError: ``n`` is less than one, or more than there are.

    Example:
        >>> some = take_rows(embedded_reviews(), 500, seed=0)
        >>> len(some), sum(some.labels)
        (500, 250)
    """
    if not 1 <= n <= len(rows):
        raise DataError(f"{n:,} rows are asked for, but {rows.source} has {len(rows):,}; ask for 1 to {len(rows)}")
    return rows.select(_draw(rows, n, key=f"take {seed}"))


def _draw(rows: Rows, n: int, *, key: str) -> tuple[int, ...]:
    strata = make_strata(rows.labels, bins=min(10, n))
    sizes = {stratum: len(positions) for stratum, positions in strata.items()}
    counts = share_out(n, sizes, least=1 if n >= len(sizes) else 0, spare=0)
    return draw_rows(strata, counts, key=key)


def _from_folder(task: AnyTask, folder: Path) -> TaskRows:
    train = read_rows(_file(folder, "train", task), task, split="train")
    there = [split for split in task.validation_splits if _candidates(folder, split)]
    missing = [split for split in task.validation_splits if split not in there]
    # With none there, the first one is looked for, which raises with the list of what there is.
    names = there or missing[:1]
    validation = {name: read_rows(_file(folder, name, task), task, split=name) for name in names}
    unread = _unread(folder, names)
    return join_sets(task, train, validation, [*(f"{name} is not in {folder}" for name in missing), *unread])


def _candidates(folder: Path, name: str) -> list[Path]:
    return [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]


def _file(folder: Path, name: str, task: AnyTask) -> Path:
    found = _candidates(folder, name)
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{folder} has both {found[0].name} and {found[1].name}; keep one of them")
    if not folder.is_dir():
        known = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
        raise DataError(f"there is no folder {folder}; {folder.parent} has: {_listed(known)}; {_folder_cure(task)}")
    here = sorted(path.name for path in folder.iterdir())
    raise DataError(f"{folder} has no {name}.jsonl or {name}.jsonl.gz; it has: {_listed(here)}; {_folder_cure(task)}")


def _unread(folder: Path, names: list[str]) -> list[str]:
    read = {f"{name}{suffix}" for name in names for suffix in SUFFIXES}
    others = sorted(path.name for path in folder.glob("validation*") if path.name not in read)
    return [f"{name} in {folder} is not read" for name in others]


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "nothing"


def _folder_cure(task: AnyTask) -> str:
    names = " and ".join(f"DIR/{task.name}/{name}.jsonl" for name in ("train", *task.validation_splits))
    return f"give --data-dir DIR with {names} (.gz allowed)"


def _from_package(task: AnyTask) -> TaskRows:
    rows = embedded_reviews()
    # The seed is fixed: runs with different seeds are scored on the same rows.
    chosen = _draw(rows, EMBEDDED_VALIDATION_ROWS, key="embedded validation")
    others = sorted(set(range(len(rows))) - set(chosen))
    train, validation = rows.select(others), rows.select(chosen)
    shared = shared_texts(task, train, validation)
    if shared:
        raise DataError(f"{rows.source}: {shared} texts occur more than once, in training and in validation")
    return TaskRows(task, train, {"validation": validation})


def _from_hub(task: AnyTask, hub_id: str) -> TaskRows:
    sets = ask_hub(hub_id, task.name, cure=_folder_cure(task))
    missing = [name for name in ("train", *task.validation_splits) if name not in sets]
    if missing:
        raise DataError(f"{hub_id} {task.name} has no {', '.join(missing)}; it has: {', '.join(sets)}")
    read = {
        name: check_rows(enumerate(sets[name], start=1), task, source=f"{hub_id}/{task.name}/{name}", split=name)
        for name in ("train", *task.validation_splits)
    }
    train = read.pop("train")
    return join_sets(task, train, read, [])


def ask_hub(hub_id: str, config: str | None, *, cure: str) -> Mapping[str, Any]:
    """Return the sets of a hub data set by name.

    Args:
        hub_id: Owner and name.
        config: Name of the configuration; None takes the only one.
        cure: What to do without the hub, for the error text.

    Raises:
        DataError: The hub gives no answer.
    """
    import datasets
    from huggingface_hub import HfApi, is_offline_mode

    try:
        if not is_offline_mode():
            # load_dataset tries for 23 s before it gives up; one short question tells sooner.
            HfApi().dataset_info(hub_id, timeout=HUB_SECONDS)
        sets: Mapping[str, Any] = datasets.load_dataset(hub_id, config)
    except Exception as error:  # the hub's clients raise classes of several libraries, which share no root
        other = (
            "unset HF_HUB_OFFLINE to ask the hub"
            if is_offline_mode()
            else "set HF_HUB_OFFLINE=1 if the set was loaded on this machine before"
        )
        raise DataError(
            f"no answer from the hub for {' '.join(filter(None, (hub_id, config)))} ({type(error).__name__}: {error}); "
            f"{cure}, or {other}"
        ) from error
    return sets
