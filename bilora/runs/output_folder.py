"""Where a command writes; what is there already is not touched, unless the user says so of an earlier run."""

from __future__ import annotations

import itertools
from pathlib import Path

from bilora.errors import SettingsError
from bilora.files.lock import NAME as LOCK
from bilora.files.lock import locked
from bilora.runs.earlier_run import is_run, remove_run


def make_output_folder(chosen: str | None, *, task: str, root: Path = Path("runs"), overwrite: bool = False) -> Path:
    """Create and return the output folder.

    Args:
        chosen: The folder; None takes the next free ``root/<task>-N``.
        task: Name of the task, for the default.
        root: Where default folders go.
        overwrite: Whether the files of an earlier run in the chosen folder go; no other file does.

    Raises:
        SettingsError: The chosen folder holds something (with ``overwrite``: and no run), is a file, is in use, or
            cannot be created.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> [make_output_folder(None, task="mrpc", root=root).name for _ in range(2)]
        ['mrpc-1', 'mrpc-2']
    """
    if chosen is None:
        return next(folder for number in itertools.count(1) if (folder := _made(root / f"{task}-{number}")) is not None)
    folder = Path(chosen)
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        if not overwrite:
            raise SettingsError(
                f"output folder {folder} is not empty; name another one, move what is in it away, or go on in it with "
                f"--resume {folder}; --overwrite removes an earlier run's files from it"
            )
        _clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output folder {folder} cannot be created: {error}") from error
    return folder


def _clear(folder: Path) -> None:
    """Remove the earlier run in a folder, and say what stays."""
    if not is_run(folder):
        raise SettingsError(
            f"output folder {folder} is not empty and holds no earlier run (no config.yaml of one), and --overwrite "
            "removes a run's files only; name another folder"
        )
    with locked(folder):
        try:
            left = [path.name for path in remove_run(folder) if path.name != LOCK]
        except OSError as error:
            raise SettingsError(f"output folder {folder}: the earlier run cannot be removed: {error}") from error
    stays = f"; not of a run, and still there: {', '.join(left)}" if left else ""
    print(f"note: the earlier run in {folder} is removed{stays}")


def _made(folder: Path) -> Path | None:
    """Create the folder; None where another process was faster or an earlier run has it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return None
    except OSError as error:
        raise SettingsError(f"output folder {folder} cannot be created: {error}; give --output") from error
    return folder


def plain_name(text: str) -> str:
    """Return a label as part of a file name: letters, digits, ``-``, ``_`` and ``.`` alone.

    Example:
        >>> plain_name("package.module:VARIANT")
        'package.module-VARIANT'
    """
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in text)
