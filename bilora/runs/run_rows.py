"""The rows that a config asks for."""

from __future__ import annotations

from bilora.data.row_sets import TaskRows
from bilora.data.rows import Rows
from bilora.runs.config import RunConfig
from bilora.runs.d2_as_validation import with_upper_watched
from bilora.tasks.catalog import find_task
from bilora.tasks.kinds.table import build_kind, find_kind
from bilora.tasks.labelled_files import load_labelled_files
from bilora.tasks.sources import EMBEDDED_TASK, take_rows


def load_run_rows(config: RunConfig) -> TaskRows:
    """Return the checked rows of the config's files, or of its task.

    Files of which no row is held out have the run's D2 as their validation set, under its own name.

    Example:
        >>> len(load_run_rows(RunConfig()).train)
        7530
    """
    files = config.labelled_files()
    if files is not None:
        rows = load_labelled_files(files)
        if rows.validation:
            return rows
        return with_upper_watched(config, rows, train=training_rows(config, rows.train, seed=config.seeds[0]))
    kind = build_kind(find_task(config.task or EMBEDDED_TASK), config.task_settings)
    return find_kind(kind.task).load(kind, config.data_dir)


def training_rows(config: RunConfig, rows: Rows, *, seed: int) -> Rows:
    """Return the training rows of the runs with one of the config's seeds.

    Example:
        >>> config = RunConfig(train_rows=100)
        >>> len(training_rows(config, load_run_rows(config).train, seed=0))
        100
    """
    return rows if config.train_rows is None else take_rows(rows, config.train_rows, seed=seed)
