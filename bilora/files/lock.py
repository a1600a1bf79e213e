"""One process per folder: a second one is refused before it writes anything."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bilora.errors import SettingsError

# The files in a folder while a process holds it; the second has the id of the process.
LOCK, HOLDER = NAMES = (".lock", ".lock-holder")


# The folders that this process holds.
_HELD: set[Path] = set()


@contextlib.contextmanager
def locked(folder: Path, *, again: bool = False) -> Iterator[None]:
    """Hold a folder for this process, ``again`` where a command holds it already, until it ends in whatever way."""
    if again and folder.resolve() in _HELD:
        yield
        return
    refuse_links(folder)
    with _locked(folder):
        _HELD.add(folder.resolve())
        try:
            yield
        finally:
            _HELD.discard(folder.resolve())


def refuse_links(folder: Path) -> None:
    """Refuse to write in a folder with links in it: what is written through one lands elsewhere."""
    if link := next((path for path in sorted(folder.rglob("*")) if path.is_symlink()), None):
        raise SettingsError(
            f"{link} is a link to {os.readlink(link)}, and nothing is written through links, since a folder may come "
            "from somebody else; put the file itself there, or name another folder"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock, holder = FileLock(folder / LOCK, timeout=0), folder / HOLDER
    try:
        lock.acquire()
    except Timeout:
        pid = holder.read_text(encoding="ascii").strip() if holder.is_file() else ""
        raise SettingsError(
            f"output folder {folder} is in use by process {pid or 'unknown'}; wait for it, or name another folder"
        ) from None
    except OSError as error:
        reason = f"output folder {folder} cannot be written to: {error.strerror}; name another one"
        raise SettingsError(reason) from error
    try:
        # Beside the lock: Windows lets nobody else read a file that is locked.
        holder.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        for name in NAMES:
            # While the lock is held, so that nobody else's goes; on Windows filelock removes the locked file itself.
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        lock.release()
