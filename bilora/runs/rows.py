"""The rows that a config asks for."""

import dataclasses

from bilora.artifacts.scored_on import UPPER
from bilora.data.records import Record
from bilora.data.rows import Rows
from bilora.data.sets import TaskRows
from bilora.data.split import split_rows
from bilora.errors import SettingsError
from bilora.runs.config import RunConfig
from bilora.tasks.catalog import find_task
from bilora.tasks.labelled_files import load_labelled_files
from bilora.tasks.sources import EMBEDDED_TASK, take_rows


def is_left_to_upper(config: RunConfig) -> bool:
    """Return whether D2 stays what it is in a run, and nothing but an upper level trains on it.

    A lower level that trained on D2, as in retraining, or that is given its rows by a refreshed split, fits them; the
    loss there would say nothing.

    Example:
        >>> [is_left_to_upper(RunConfig(method=name)) for name in ("bilora", "lora", "learned_decay")]
        [True, False, False]
    """
    trained = [stage for stage in config.stages if stage.steps != 0]
    return not config.refresh and bool(trained) and all(stage.upper is not None for stage in trained)


def with_upper_watched(config: RunConfig, rows: TaskRows, *, train: Rows) -> TaskRows:
    """Return the rows with the run's D2 as the set that is watched and scored.

    Args:
        config: The run, as which D2 is drawn.
        rows: Without a validation set.
        train: The run's training rows.

    Raises:
        SettingsError: There is no such D2, or not one.
    """
    if not is_left_to_upper(config):
        raise SettingsError(
            "validation_share is 0, so that D2 would be watched: that takes refresh 0 and a method whose upper level "
            f"alone trains on D2, and here are refresh {config.refresh} and method {config.method}; give "
            "validation_file, or a validation_share above 0"
        )
    # The first draw of the run's own loaders, which the seed alone decides.
    upper = train.select(split_rows(train.labels, ratio=config.split_ratio, seed=config.seed).upper)
    notice = (
        f"no row is held out: the best step is chosen by D2, {len(upper)} of the {len(train)} rows, which the upper "
        "level is trained on too, and the score is of them; give --validation-file, or --validation-share 0.1, for one "
        "of rows that nothing has seen"
    )
    return dataclasses.replace(rows, validation={UPPER: upper}, notices=(*rows.notices, notice))


def load_run_rows(config: RunConfig, records: list[Record] | None = None) -> TaskRows:
    """Return the checked rows of the config's files, or of its task.

    Files of which no row is held out have the run's D2 as their validation set, under its own name. ``records`` are
    those of the training file, where it was read before.

    Example:
        >>> len(load_run_rows(RunConfig()).train)
        7530
    """
    files = config.labelled_files()
    if files is not None:
        rows = load_labelled_files(files, records)
        rows = dataclasses.replace(rows, task=rows.task.with_settings(config.task_settings))
        if rows.validation:
            return rows
        return with_upper_watched(config, rows, train=training_rows(config, rows.train))
    return find_task(config.task or EMBEDDED_TASK).with_settings(config.task_settings).load_rows(config.data_dir)


def training_rows(config: RunConfig, rows: Rows) -> Rows:
    """Return the training rows of a run.

    Example:
        >>> config = RunConfig(train_rows=100)
        >>> len(training_rows(config, load_run_rows(config).train))
        100
    """
    return rows if config.train_rows is None else take_rows(rows, config.train_rows, seed=config.seed)
