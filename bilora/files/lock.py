"""One process a folder: a second one is told before it does anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bilora.errors import SettingsError

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it when the process ends, however it ends.

    Args:
        folder: Exists.

    Raises:
        SettingsError: Another process holds it, or it cannot be written to.
    """
    path = folder / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SettingsError(
            f"output folder {folder} cannot be written to: {error.strerror}; name another one"
        ) from error
    try:
        _lock(descriptor, folder)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    if os.name == "nt":
        return  # Windows has no flock; a second process is not noticed there
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder may have taken the file away between our opening and our locking it.
        if os.stat(folder / NAME).st_ino != os.fstat(descriptor).st_ino:
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        holder = os.pread(descriptor, 20, 0).decode().strip() or "unknown"
        raise SettingsError(
            f"output folder {folder} is in use by process {holder}; wait for it, or name another folder"
        ) from None
