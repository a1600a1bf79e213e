"""The single runs of a comparison, one or several at once; a finished one is never run again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bilora.data.sets import TaskRows, take_validation
from bilora.errors import DivergedError
from bilora.files.formats import write_json
from bilora.runs.config import RunConfig
from bilora.runs.folder import plain_name
from bilora.runs.rows import load_run_rows
from bilora.runs.run import prepare, run_once
from bilora.tasks.sources import take_rows

RECORD = "comparison.json"
"""Name of the file in a run's folder that says what the run is in its comparison; it is written last."""

DATA = (
    "task",
    "task_settings",
    "train_file",
    "text_columns",
    "label_column",
    "label_separator",
    "validation_file",
    "validation_share",
    "task_type",
    "on_bad_row",
    "data_dir",
)
"""Settings of a run that say which rows are read."""

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
"""Environment of the processes of several jobs: one thread each, and no progress bars over each other."""


PATIENCE = 1.0
"""Seconds between two signals to a process that is to end."""


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Args:
        label: The entry that it belongs to.
        seed: Its seed.
        config: All its settings.
        candidate: Those of them that were chosen, or are being tried.
        held_out: Share of its training rows that it is scored on in place of the validation rows, to choose among
            candidates; None for a run that is reported.
    """

    label: str
    seed: int
    config: RunConfig
    candidate: dict[str, Any] = field(default_factory=dict)
    held_out: float | None = None

    @property
    def method(self) -> str:
        """The variant."""
        return self.config.method[0]

    @property
    def key(self) -> str:
        """The hash of everything that decides the numbers of the run."""
        return hashlib.sha256(f"{self.config.sha256(self.method, self.seed)} {self.held_out}".encode()).hexdigest()

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        kind = "run" if self.held_out is None else "choice"
        return f"{plain_name(self.label)}-{kind}-seed{self.seed}-{self.key[:10]}"


def finished(job: Job, folder: Path) -> dict[str, Any] | None:
    """Return the record of a job that was run before, or None."""
    path = folder / "runs" / job.name / RECORD
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record if record["key"] == job.key else None


def run_job(job: Job, folder: Path) -> dict[str, Any]:
    """Run a job and return its record; a run that diverges is a result too, without a score.

    Args:
        job: The job.
        folder: The comparison's folder. The run's own is made in ``unfinished/``, where one that was interrupted goes
            on from its checkpoint, and moved to ``runs/`` as a whole.
    """
    place = folder / "unfinished" / job.name
    rows, config = _rows(job)
    prepared = prepare(config, rows)
    failed, row = None, None
    try:
        row = run_once(config, prepared, method=job.method, seed=job.seed, folder=place)
    except DivergedError as error:
        failed = str(error)
    record = {
        "label": job.label,
        "method": job.method,
        "seed": job.seed,
        "purpose": "report" if job.held_out is None else "choose",
        "candidate": job.candidate,
        "key": job.key,
        "folder": f"runs/{job.name}",
        "failed": failed,
        "set": next(iter(rows.validation)),
        "metric": rows.task.metric,
        "greater_is_better": rows.task.greater_is_better,
        "row": row,
    }
    write_json(place / RECORD, record)
    (folder / "runs").mkdir(exist_ok=True)
    place.rename(folder / "runs" / job.name)
    return record


def run_jobs(jobs: Iterable[Job], folder: Path, *, at_once: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its record as soon as it is there; the ones that were run before come first.

    Args:
        jobs: The jobs.
        folder: The comparison's folder.
        at_once: Processes; 1 runs all in this one.
    """
    left = []
    for job in jobs:
        record = finished(job, folder)
        if record is None:
            left.append(job)
        else:
            yield job, record
    if at_once == 1:
        for job in left:
            yield job, run_job(job, folder)
    elif left:
        yield from _in_processes(left, folder, at_once)


def _in_processes(jobs: list[Job], folder: Path, at_once: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    # Spawned, not forked: a fork of a process with torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with _environment(ALONE), ProcessPoolExecutor(at_once, mp_context=context) as pool:
        futures = {pool.submit(run_job, job, folder): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end([each for each in multiprocessing.active_children() if each not in others])
            raise


def _end(workers: Sequence[BaseProcess]) -> None:
    """End the processes of a pool: each saves the run it is in, at its next step, and begins no other."""
    while alive := [each for each in workers if each.is_alive()]:
        # Again and again: one that has saved takes the job that was waiting for it, before it comes to the end.
        for each in alive:
            each.terminate()
        alive[0].join(PATIENCE)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _rows(job: Job) -> tuple[TaskRows, RunConfig]:
    """Return the rows of a job, and its config over them."""
    rows = _loaded(job.config)
    if job.held_out is None:
        return rows, job.config
    count = job.config.train_rows
    own = rows.train if count is None else take_rows(rows.train, count, seed=job.seed)
    train, held_out = take_validation(own, job.held_out)
    halves = dataclasses.replace(rows, train=train, validation={"held_out": held_out})
    return halves, dataclasses.replace(job.config, train_rows=None)


def _loaded(config: RunConfig) -> TaskRows:
    """Return the rows of a config; the set of one comparison is read once a process."""
    return _read(json.dumps({name: getattr(config, name) for name in DATA}))


@functools.lru_cache(maxsize=1)
def _read(data: str) -> TaskRows:
    return load_run_rows(RunConfig(**json.loads(data)))
