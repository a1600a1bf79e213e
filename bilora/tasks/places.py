"""Where rows lie that somebody names by a folder or by a hub id: which files are the sets of it."""

import os
import re
from dataclasses import replace
from pathlib import Path

import huggingface_hub

from bilora.data.records import READERS, TABLES
from bilora.data.set_files import SetPaths, find_set_files
from bilora.errors import DataError
from bilora.tasks.catalog import ALL_TASKS
from bilora.tasks.sources import HUB_SECONDS

# owner/name, and perhaps one of the configurations of the data set.
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?")


def is_hub_id(place: str) -> bool:
    """Return whether rows can only be on the hub: nothing here has the name, and no file of rows is called so."""
    named = _HUB_ID.fullmatch(place) is not None and not place.startswith((".", "-"))
    return named and not place.removesuffix(".gz").endswith((*READERS, *TABLES)) and not os.path.exists(place)


def is_place(task: str) -> bool:
    """Return whether what is named as a task is a folder or a hub id, and no task of this library."""
    return task not in ALL_TASKS and ":" not in task and (os.path.isdir(task) or is_hub_id(task))


def find_sets(place: str) -> SetPaths | None:
    """Return the files of the sets of a folder or of a hub id; None for a single file.

    Raises:
        DataError: There is no training set, the hub does not answer, or it does not know the id.
    """
    if os.path.isdir(place):
        folder = Path(place)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return _below(folder, find_set_files(names, source=place))
    if is_hub_id(place):
        return _from_hub(place)
    return None


def _from_hub(place: str) -> SetPaths:
    match = _HUB_ID.fullmatch(place)
    assert match is not None  # it is a hub id
    hub_id, part = match.groups()
    try:
        if huggingface_hub.is_offline_mode():
            folder = Path(huggingface_hub.snapshot_download(hub_id, repo_type="dataset", local_files_only=True))
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            return _below(folder, find_set_files(names, source=place, part=part))
        # First the names, so that no other files are fetched than those of the sets.
        info = huggingface_hub.HfApi().dataset_info(hub_id, timeout=HUB_SECONDS)
        sets = find_set_files([file.rfilename for file in info.siblings or ()], source=place, part=part)
        wanted = [name for name in (sets.train, sets.validation, sets.test) if name is not None]
        return _below(Path(huggingface_hub.snapshot_download(hub_id, repo_type="dataset", allow_patterns=wanted)), sets)
    except DataError:
        raise
    # The hub's clients raise classes of several libraries, which share no root.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"there is no file or folder {place}, and as a data set of the hub it cannot be had "
            f"({type(error).__name__}: {reason[:300]}); give a file or a folder, or a hub id that this machine can "
            "reach or has in its cache"
        ) from error


def _below(folder: Path, sets: SetPaths) -> SetPaths:
    def path(name: str | None) -> str | None:
        return None if name is None else str(folder / name)

    return replace(sets, train=str(folder / sets.train), validation=path(sets.validation), test=path(sets.test))
