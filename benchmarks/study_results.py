"""The lines of a study's results: appended whole, by several processes at once, and no job taken twice."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from study_protocol import Job, Protocol

from bilora.errors import SettingsError
from bilora.files.formats import finite_or_null, read_lines

Line = Mapping[str, Any]


class Results:
    """A file of JSON lines, and beside it a file of locks: one byte for the file, and one for each job."""

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self.path, self.protocol = path, protocol
        before = protocol.follows
        self.before = None if before is None else Results(path.with_name(f"{before.name}.jsonl"), before)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A number, which nothing closes before the process ends: it loses its locks on a file with the first copy of
        # it that is closed.
        self._locks = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)

    def lines(self) -> list[dict[str, Any]]:
        """Return what is there, of the study that this one follows too; lines of another protocol are refused."""
        return [*([] if self.before is None else self.before.lines()), *self._own_lines()]

    def _own_lines(self) -> list[dict[str, Any]]:
        lines = read_lines(self.path)
        if other := next((line for line in lines if line["protocol"] != self.protocol.sha256), None):
            raise SettingsError(
                f"{self.path} has results of protocol {other['protocol'][:12]}, and this one is "
                f"{self.protocol.sha256[:12]}; name another --output, or go back to that protocol"
            )
        return lines

    def by_job(self) -> dict[str, Line]:
        """Return the finished jobs by name."""
        return {line["job"]: line for line in self.lines() if "job" in line}

    def claim(self, job: Job) -> bool:
        """Take a job, unless another process has it; whoever ends, in whatever way, gives up what it holds."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(job))
        except BlockingIOError:
            return False
        return True

    def release(self, job: Job) -> None:
        """Give a job up."""
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _place(job))

    def append(self, line: Line) -> None:
        """Write a line, which is on the disk afterwards."""
        text = json.dumps(finite_or_null({**line, "protocol": self.protocol.sha256}), allow_nan=False) + "\n"
        with self._whole(), self.path.open("ab+") as file:
            # A process that was killed may have left half a line.
            size = file.seek(0, os.SEEK_END)
            if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _whole(self) -> Iterator[None]:
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 0)


def _place(job: Job) -> int:
    # A lock may lie behind the end of its file; byte 0 is that of the whole.
    return 1 + int.from_bytes(hashlib.sha256(job.name.encode()).digest()[:6])
