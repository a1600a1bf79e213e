"""Files that a command is told to write; what is there already is never touched."""

from __future__ import annotations

from pathlib import Path

from bilora.errors import SettingsError


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
