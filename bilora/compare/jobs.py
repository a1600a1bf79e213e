"""The single runs of a comparison, one or several at once; a finished one is never run again."""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.process import BaseProcess

from bilora.compare.folders import Job, JobFolder, Record
from bilora.data.sets import TaskRows, take_validation
from bilora.errors import DivergedError
from bilora.runs.config import RunConfig
from bilora.runs.plan import RunPlan, load_run_rows, plan_run, training_rows
from bilora.runs.run import Prepared, prepare, run_once

# Settings of a run that say which rows are read.
DATA = (
    *("task", "task_settings", "train_file", "text_columns", "label_column", "label_separator", "validation_file"),
    *("validation_share", "task_type", "on_bad_row", "data_dir"),
)

# Of the processes of several jobs: one thread each, and no progress bars over each other.
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
# Seconds between two signals to a process that is to end.
PATIENCE = 1.0


def run_job(job: Job, folder: JobFolder, *, plan: RunPlan | None = None, prepared: Prepared | None = None) -> Record:
    """Run a job and return its record; without a plan it makes one, over the job's own rows."""
    plan = plan or _plan(job)
    failed, row = None, None
    try:
        row = run_once(plan, prepared or prepare([plan]), folder=folder.run_folder(job))
    except DivergedError as error:
        if not folder.keeps_failures:
            raise
        failed = str(error)
    task = plan.task
    record = {
        "label": job.label,
        "method": job.config.method,
        "seed": job.seed,
        "purpose": "report" if job.held_out is None else "choose",
        "candidate": job.candidate,
        "key": job.key,
        "folder": f"runs/{job.name}",
        "failed": failed,
        "set": next(iter(plan.rows.validation)),
        "metric": task.metric,
        "greater_is_better": task.greater_is_better,
        "row": row,
    }
    # Of several processes one keeps it: two would both move the folder, or write the row twice.
    plan.processes.first_only(lambda: folder.keep(job, record))
    return record


def run_jobs(jobs: Iterable[Job], folder: JobFolder, *, at_once: int) -> Iterator[tuple[Job, Record]]:
    """Yield each job with its record as soon as it is there, finished ones first; ``at_once`` 1 runs them here."""
    left = []
    for job in jobs:
        if (record := folder.finished(job)) is None:
            left.append(job)
        else:
            yield job, record
    if left and at_once > 1:
        yield from _in_processes(left, folder, at_once)
    else:
        yield from ((job, run_job(job, folder)) for job in left)


def _in_processes(jobs: list[Job], folder: JobFolder, at_once: int) -> Iterator[tuple[Job, Record]]:
    # Those of others, such as the workers of a loader, are not ours to end.
    others = multiprocessing.active_children()
    # Spawned, not forked: a fork of a process with torch's threads may hang.
    spawn = multiprocessing.get_context("spawn")
    with _environment(ALONE), ProcessPoolExecutor(at_once, mp_context=spawn) as pool:
        futures = {pool.submit(run_job, job, folder): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        # Of all kinds: an interrupt, and the GeneratorExit of a caller who wants no more, must leave no process behind.
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end([worker for worker in multiprocessing.active_children() if worker not in others])
            raise


def _end(workers: Sequence[BaseProcess]) -> None:
    """End the processes of a pool: each saves its run at the next step, and begins no other."""
    while alive := [worker for worker in workers if worker.is_alive()]:
        # Again and again: one that has saved takes the job that was waiting for it, before it comes to the end.
        for worker in alive:
            worker.terminate()
        alive[0].join(PATIENCE)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    # Not by an initializer of the pool: torch reads them as it is imported, which a worker does before that.
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in values if name in before})


def _plan(job: Job) -> RunPlan:
    """Return the plan of a job over its own rows, of which a trial keeps some back to be scored on."""
    config, rows = job.config, read_rows(job.config)
    if job.held_out is None:
        return plan_run(config, rows)
    train, held_out = take_validation(training_rows(config, rows.train, rows.task), job.held_out)
    halves = dataclasses.replace(rows, train=train, validation={"held_out": held_out})
    # They are drawn and flipped already: a second draw would take other rows.
    return plan_run(dataclasses.replace(config, train_rows=None, flip_labels=None), halves)


def read_rows(config: RunConfig) -> TaskRows:
    """Return the rows of a config; those of one comparison are read once per process."""
    return _read(json.dumps({name: getattr(config, name) for name in DATA}))


@functools.lru_cache(maxsize=1)
def _read(data: str) -> TaskRows:
    return load_run_rows(RunConfig(**json.loads(data)))
