"""The folder that a fit saves in: who writes there, and which checkpoint it goes on from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bilora.engines.checkpoints.check import Checkpoint, newest_checkpoint, open_checkpoint
from bilora.engines.checkpoints.files import checkpoints, remove_unfinished
from bilora.errors import SettingsError
from bilora.files.lock import locked


@contextmanager
def opened(folder: Path | None, *, resume: bool | Path) -> Iterator[Checkpoint | None]:
    """Hold the folder for this process, without what a killed one left in it, and find the checkpoint to go on from.

    Args:
        folder: The folder; None for a fit that saves nothing.
        resume: Whether to go on from the newest checkpoint that verifies (from the start if there is none at all),
            or the checkpoint to go on from.

    Yields:
        The checkpoint, or None to begin at the start.

    Raises:
        SettingsError: Another process holds the folder, or it holds checkpoints and ``resume`` is False.
        CheckpointError: No checkpoint verifies.
    """
    if folder is None:
        if resume:
            raise SettingsError("resume needs to know where the checkpoints are; give 'folder'")
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        remove_unfinished(folder)
        if not resume and checkpoints(folder):
            raise SettingsError(f"{folder} holds checkpoints of an earlier run; resume it, or name another folder")
        yield open_checkpoint(resume) if isinstance(resume, Path) else _newest(folder) if resume else None


def _newest(folder: Path) -> Checkpoint | None:
    found, skipped = newest_checkpoint(folder)
    for reason in skipped:
        warnings.warn(f"checkpoint skipped: {reason}", RuntimeWarning, stacklevel=4)
    return found
