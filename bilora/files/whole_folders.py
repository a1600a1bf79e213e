"""Folders and files that are written whole or not at all."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bilora.errors import BiloraError, DataError, SettingsError
from bilora.files.formats import dump_json

CACHE_VARIABLE = "BILORA_CACHE"
MANIFEST = "manifest.json"
# What follows the name of a folder that is being written, and of one that is about to be replaced by it: after a kill
# at most such a folder is left beside the one that was there before, or beside the new one, whole.
UNFINISHED, REPLACED = ".tmp-", ".tmp-replaced-"


class DamagedCacheWarning(UserWarning):
    """A folder of the cache was not as it had been written, and was made anew."""


def write_folder(
    folder: Path,
    write: Callable[[Path], None],
    *,
    manifest: Callable[[dict[str, dict[str, Any]]], Mapping[str, Any]],
    keep: Callable[[Path], bool] = lambda folder: False,
) -> None:
    """Write a folder that has its name only once every file in it, the manifest of all hashes last, is on the disk."""
    # Not the process alone: two threads, or two machines on one disk, may have the same number.
    unfinished = folder.with_name(f"{folder.name}{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        unfinished.mkdir()
        write(unfinished)
        paths = sorted(unfinished.rglob("*"))
        entries = {
            path.relative_to(unfinished).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
            for path in paths
            if path.is_file()
        }
        (unfinished / MANIFEST).write_text(dump_json(manifest(entries)), encoding="utf-8")
        # Before the rename: a name may reach the disk earlier than what it stands for.
        for path in (*paths, unfinished / MANIFEST, unfinished):
            flush(path)
        # A folder that another process has put there meanwhile stays where it is whole.
        if not keep(folder):
            _put(unfinished, folder)
    except OSError:
        if not keep(folder):
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put(unfinished: Path, folder: Path) -> None:
    replaced = folder.with_name(f"{folder.name}{REPLACED}{os.getpid()}")
    # Two renames, as none replaces a folder that holds something; until the first, the old one is the only whole one.
    if folder.exists():
        os.replace(folder, replaced)
    os.replace(unfinished, folder)
    flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_files(folder: Path, write: Callable[[Path], object], *, first: str = "") -> None:
    """Write files into a folder that may hold others: each appears whole or not at all, ``first`` before the rest."""
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=UNFINISHED))
    try:
        write(scratch)
    except BaseException:
        shutil.rmtree(scratch)
        raise
    # An end in here leaves the scratch folder, by which the next writer knows that what is here is not finished.
    for path in sorted(scratch.iterdir(), key=lambda path: (path.name != first, path.name)):
        flush(path)
        os.replace(path, folder / path.name)
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished)


# No room on the disk, none left of the user's share of it, or none for so large a file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or the one that it was raised from, says that the disk has no room."""
    if error is None:
        return False
    if isinstance(error, OSError):
        return error.errno in FULL
    # safetensors and tokenizers raise errors of their own, with the system's words in them.
    foreign = not isinstance(error, BiloraError) and any(os.strerror(number) in str(error) for number in FULL)
    return foreign or is_full(error.__cause__)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_root() -> Path:
    """Return the folder of everything cached: ``BILORA_CACHE``, else ``bilora`` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bilora"


def cached_folder(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` of the cache; where it is missing or damaged, ``build`` first writes its files."""
    folder = cache_root() / name
    fault = _fault(folder)
    if fault is None:
        return folder
    if folder.exists():
        warnings.warn(f"{folder} is damaged ({fault}); it is made anew", DamagedCacheWarning, stacklevel=2)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_folder(
            folder,
            build,
            manifest=lambda files: {file: entry["sha256"] for file, entry in files.items()},
            keep=lambda folder: _fault(folder) is None,
        )
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be written: {error}; set {CACHE_VARIABLE} to a folder with room"
        ) from error
    return folder


def _fault(folder: Path) -> str | None:
    # Every byte, at each use: a cache is cleaned in part, by users and by systems, and half a model predicts nonsense.
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        changed = [name for name, digest in manifest.items() if sha256_of(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"{changed[0]} is not as it was written" if changed else None


def new_file(name: str) -> Path:
    """Return the path of a file that does not exist yet, in a folder that does; raise SettingsError otherwise."""
    path = Path(name)
    # A link that leads nowhere yet is one too: what is written through it lands elsewhere.
    try:
        if path.exists() or path.is_symlink():
            raise SettingsError(f"output {name} is there already; name another file, or move it away")
        if not path.parent.is_dir():
            raise SettingsError(f"output {name}: there is no folder {path.parent}; make it first")
    except OSError as error:  # a name that is too long, or a folder that nobody may look into
        raise SettingsError(f"output {name} cannot be written: {error.strerror}; name another file") from error
    return path


def new_folder(name: str) -> Path:
    """Return the path of an empty folder, made where there is none; raise SettingsError where it holds something."""
    path = Path(name)
    try:
        # What a killed process has left unfinished is nobody's, and is written again.
        if path.is_dir() and any(path.iterdir()) and not any(path.glob(f"{UNFINISHED}*")):
            raise SettingsError(f"output {name} is not empty; name another folder, or move its files away")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output {name} cannot be made: {error}") from error
    return path
