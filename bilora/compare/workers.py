"""The runs of a comparison, here or in processes that end with this one, however it does."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from filelock import FileLock, Timeout

from bilora.compare.folders import Job, Record, RecordFolder
from bilora.compare.jobs import run_job
from bilora.engines.checkpoints.stop_signals import sigterm_raised
from bilora.errors import BiloraError, CheckpointError, InterruptedRun, ProcessesError, ResourceError
from bilora.problems.levels.out_of_memory import is_out_of_memory

# Of the processes: one thread each, and no progress bars over each other.
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
# Seconds between two signals to a process that is to end.
PATIENCE = 1.0
# Seconds in which a process whose parent is gone ends: a step, and the checkpoint after it.
LAST_STEP = 600.0
# Spawned, not forked: a fork of a process with torch's threads may hang.
SPAWN = multiprocessing.get_context("spawn")
# Of Linux's prctl: the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Lost:
    """Why a run has no record; the runs beside it have."""

    reason: str
    kind: type[BiloraError] = ResourceError


Outcome = Record | Lost
# What runs jobs somewhere: each comes back with its outcome as soon as it is there, finished ones first.
RunJobs = Callable[[Sequence[Job], RecordFolder], Iterable[tuple[Job, Outcome]]]


def run_jobs(jobs: Iterable[Job], folder: RecordFolder, *, at_once: int) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job with its outcome as soon as it is there, finished ones first; ``at_once`` 1 runs them here."""

    def run(left: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        if at_once > 1:
            yield from _in_processes(left, folder, at_once)
        else:
            yield from ((job, outcome_of(job, folder)) for job in left)

    return finished_first(jobs, folder, run)


def finished_first(
    jobs: Iterable[Job], folder: RecordFolder, run: Callable[[Sequence[Job]], Iterator[tuple[Job, Outcome]]]
) -> Iterator[tuple[Job, Outcome]]:
    """Yield the jobs that the folder has a record of, and then what ``run`` makes of the others, if there are any."""
    left = []
    for job in jobs:
        if (record := folder.finished(job)) is None:
            left.append(job)
        else:
            yield job, record
    if left:
        yield from run(left)


def outcome_of(job: Job, folder: RecordFolder, **given: Any) -> Outcome:
    """Return the record of a job, which is run here, or why there is none; ``given`` is for :func:`run_job`."""
    try:
        with _alone_in(folder, job):
            return run_job(job, folder, **given)
    except Exception as error:
        # A disk that is full, unlike a memory, is so for the other runs as well.
        if not is_out_of_memory(error):
            raise
        return Lost(str(error))


@contextlib.contextmanager
def _alone_in(folder: RecordFolder, job: Job) -> Iterator[None]:
    """Hold the folder of a run; a process of an earlier comparison that was killed may be saving there."""
    run = folder.run_folder(job)
    run.parent.mkdir(exist_ok=True)
    lock = FileLock(run.with_name(f"{run.name}.lock"), timeout=LAST_STEP)
    try:
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"{run} is still held by a process of an earlier comparison; wait for it, or end it"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


@dataclass
class _Worker:
    """A process that runs one job after the other."""

    folder: RecordFolder
    job: Job | None = None
    connection: Connection = field(init=False)
    process: BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(theirs, self.folder))
        with _environment(ALONE):
            self.process.start()
        # Its end is open in the process alone, so that a death closes it.
        theirs.close()

    def give(self, job: Job) -> None:
        self.job = job
        # One that has died just now is found out when its outcome is asked for.
        with contextlib.suppress(OSError):
            self.connection.send(job)

    def outcome(self) -> Outcome:
        """Return the outcome of the job; raise what ends the comparison."""
        try:
            outcome: Outcome | Exception = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return _lost(self.process.exitcode or 0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _lost(code: int) -> Lost:
    if code == -signal.SIGKILL:
        return Lost("killed by SIGKILL, as the system does where memory runs out")
    return Lost(f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}", ProcessesError)


def _in_processes(jobs: Sequence[Job], folder: RecordFolder, at_once: int) -> Iterator[tuple[Job, Outcome]]:
    left = collections.deque(jobs)
    workers: list[_Worker] = []
    busy: dict[Any, _Worker] = {}
    try:
        while left or busy:
            while left and len(busy) < at_once:
                idle = [worker for worker in workers if worker.job is None and worker.process.is_alive()]
                if not idle:
                    workers += (idle := [_Worker(folder)])
                idle[0].give(left.popleft())
                busy[idle[0].connection] = idle[0]
            for ready in wait(list(busy)):
                worker = busy.pop(ready)
                job, worker.job = worker.job, None
                assert job is not None  # it was busy
                yield job, worker.outcome()
    finally:
        # Also on an interrupt, and on the GeneratorExit of a caller who wants no more.
        _end([worker.process for worker in workers])


def _end(processes: Sequence[BaseProcess]) -> None:
    """End processes: each saves its run at the next step."""
    while alive := [process for process in processes if process.is_alive()]:
        # Again and again: the first signal may come where somebody else's code catches what it raises.
        for process in alive:
            process.terminate()
        alive[0].join(PATIENCE)


def _work(connection: Connection, folder: RecordFolder) -> None:
    """Run the jobs that come, and send back the outcome of each, until the parent closes its end or is gone."""
    end_with_parent()
    try:
        with sigterm_raised():
            while True:
                connection.send(outcome_of(connection.recv(), folder))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except KeyboardInterrupt:
        # As a signal to the whole group: the parent has it too, and prints.
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send(as_sent(error))
        raise SystemExit(128 + error.number if isinstance(error, InterruptedRun) else 1) from None


def as_sent(error: Exception) -> Exception:
    """Return an error that comes through a pipe whole."""
    if not isinstance(error, BiloraError):
        # A traceback does not go through a pipe, and is all there is to know of a fault.
        error.add_note(traceback.format_exc())
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    # Of others' errors, some cannot be written and some not be read: those with arguments by keyword.
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def end_with_parent() -> None:
    """Have this process get SIGTERM once its parent has ended, in whatever way: a SIGKILL among them."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # it has been started by multiprocessing
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # Of a parent that died before this line no signal comes.
        if os.getppid() != parent.pid:
            raise SystemExit(128 + signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: BaseProcess) -> None:
    # It waits for the end of a pipe that the parent alone holds open.
    parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    # Set here, before the process is made: torch reads them as it is imported, ahead of any line of ours.
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in values if name in before})
