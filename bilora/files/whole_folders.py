"""Folders that are made once and used again: written whole or not at all, and checked before each use."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from bilora.errors import DataError, SettingsError

CACHE_VARIABLE = "BILORA_CACHE"
MANIFEST = "manifest.json"


class DamagedCacheWarning(UserWarning):
    """A folder of the cache was not as it had been written, and was made anew."""


def cache_root() -> Path:
    """Return the folder of everything cached: ``BILORA_CACHE``, else ``bilora`` in the user's cache folder.

    Example:
        >>> cache_root().name in ("bilora", Path(os.environ.get("BILORA_CACHE", "bilora")).name)
        True
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bilora"


def cached_folder(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` of the cache, built first where it is missing or damaged.

    ``build`` writes into a folder of its own, which takes its name only when every file and a manifest with their
    SHA-256 are on the disk; a process that is killed leaves no half of a folder under the name.

    Args:
        name: Of the folder; it should say what decides the content.
        build: Writes the files into an empty folder.

    Raises:
        DataError: The cache cannot be written.

    Example:
        >>> os.environ["BILORA_CACHE"] = tempfile.mkdtemp()
        >>> folder = cached_folder("greeting", lambda path: (path / "text").write_text("hello") and None)
        >>> (folder / "text").read_text(), folder == cached_folder("greeting", print)
        ('hello', True)
        >>> del os.environ["BILORA_CACHE"]
    """
    folder = cache_root() / name
    fault = _fault(folder)
    if fault is None:
        return folder
    if folder.exists():
        warnings.warn(f"{folder} is damaged ({fault}); it is made anew", DamagedCacheWarning, stacklevel=2)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{name}.tmp-") as scratch:
            made = Path(scratch) / "new"
            made.mkdir()
            build(made)
            _write_manifest(made)
            _put(made, folder, Path(scratch) / "old")
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be written: {error}; set {CACHE_VARIABLE} to a folder with room"
        ) from error
    return folder


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "empty"
        >>> path.touch()
        >>> sha256_of(path)[:8]
        'e3b0c442'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(made: Path, folder: Path, old: Path) -> None:
    """Give the new folder its name, in the place of a damaged one; one that another process made is as good."""
    if _fault(folder) is None:
        return
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if _fault(folder) is not None:
            raise


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    manifest = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _fault(folder: Path) -> str | None:
    """Return what is wrong with a folder of the cache, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        changed = [name for name, digest in manifest.items() if sha256_of(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"{changed[0]} is not as it was written" if changed else None


def new_file(chosen: str) -> Path:
    """Return the path of a file that is not there yet, in a folder that is.

    Raises:
        SettingsError: The file is there, or its folder is not.

    Example:
        >>> new_file("no-such-folder/a.json")
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: output no-such-folder/a.json: there is no folder no-such-folder; make it first
    """
    path = Path(chosen)
    if path.exists():
        raise SettingsError(f"output {chosen} is there already; name another file, or move it away")
    if not path.parent.is_dir():
        raise SettingsError(f"output {chosen}: there is no folder {path.parent}; make it first")
    return path


def new_folder(chosen: str) -> Path:
    """Return the path of a folder that is made, if it is not there yet; one that is there must be empty.

    Raises:
        SettingsError: It holds something, is a file, or cannot be made.
    """
    path = Path(chosen)
    if path.is_dir() and any(path.iterdir()):
        raise SettingsError(f"output {chosen} is not empty; name another folder, or move what is in it away")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output {chosen} cannot be made: {error}") from error
    return path
