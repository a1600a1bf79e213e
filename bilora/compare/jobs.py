"""One run of a comparison: its rows, and its record."""

import dataclasses
import json
import warnings

from bilora.compare.folders import Job, JobFolder, Record
from bilora.data.sets import TaskRows, take_validation
from bilora.errors import DivergedError
from bilora.models.copies import ModelCopy
from bilora.runs.config import RunConfig
from bilora.runs.plan import RunPlan, load_run_rows, plan_run, training_rows
from bilora.runs.run import Prepared, prepare, run_once

# Settings of a run that say which rows are read.
DATA = (
    *("task", "task_settings", "train_file", "text_columns", "label_column", "label_separator", "validation_file"),
    *("validation_share", "task_type", "on_bad_row", "data_dir", "group_column", "source_column", "weight_column"),
    *("trusted_file", "trusted_column"),
)

# The rows that were read last, by :func:`data_of`.
_read: dict[str, TaskRows] = {}


def run_job(
    job: Job,
    folder: JobFolder,
    *,
    plan: RunPlan | None = None,
    prepared: Prepared | None = None,
    rows: TaskRows | None = None,
    base: ModelCopy | None = None,
) -> Record:
    """Run a job and return its record; without a plan it makes one, over ``rows`` or those that its config names."""
    plan = plan or _plan(job, rows or _read_again(job.config))
    failed, row = None, None
    try:
        row = run_once(plan, prepared or prepare([plan], base=base), folder=folder.run_folder(job))
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


def _plan(job: Job, rows: TaskRows) -> RunPlan:
    """Return the plan of a job over its rows, of which a trial keeps some back to be scored on."""
    config = job.config
    if job.held_out is None:
        return plan_run(config, rows)
    train, held_out = take_validation(training_rows(config, rows.train, rows.task), job.held_out)
    halves = dataclasses.replace(rows, train=train, validation={"held_out": held_out})
    # They are drawn and flipped already: a second draw would take other rows.
    return plan_run(dataclasses.replace(config, train_rows=None, flip_labels=None), halves)


def _read_again(config: RunConfig) -> TaskRows:
    """Return the rows of a config, whose oddities were told when the comparison read them first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return read_rows(config)


def read_rows(config: RunConfig) -> TaskRows:
    """Return the rows of a config; those of one comparison are read once per process."""
    data = data_of(config)
    if data not in _read:
        _read.clear()
        _read[data] = load_run_rows(config)
    return _read[data]


def data_of(config: RunConfig) -> str:
    """Return the settings that say which rows are read, as text: configs with the same text have the same rows."""
    return json.dumps({name: getattr(config, name) for name in DATA})
