"""The rows that a config asks for."""

from __future__ import annotations

from bilora.engines.config import RunConfig
from bilora.engines.task_kinds import build_kind, find_kind
from bilora.engines.watched_upper import with_upper_watched
from bilora.labelled_files import load_labelled_files
from bilora.row_sets import TaskRows
from bilora.rows import Rows
from bilora.sources import EMBEDDED_TASK, take_rows
from bilora.tasks import find_task


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
