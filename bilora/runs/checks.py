"""What of a run is checked before its model is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bilora.data.rows import Rows
from bilora.data.sets import TaskRows, shared_texts
from bilora.data.split import split_rows
from bilora.engines.training.saved_run import check_halving
from bilora.engines.training.split_loaders import DividedRows, SplitLoaders, whole_loader
from bilora.errors import SettingsError
from bilora.problems.catalog import find_variant
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.processes.sharded import ALONE
from bilora.runs.config import RunConfig
from bilora.runs.rows import training_rows
from bilora.tasks.task import AnyTask


def check_room(config: RunConfig, rows: TaskRows, processes: Processes = ONE_PROCESS) -> None:
    """Make the loaders of every run over labels alone, so that too few rows are told before the model is read.

    Raises:
        DataError: A level has fewer rows than a batch.
        SettingsError: The loaders do not fit the settings.
    """
    splitting = {find_variant(method).splits_rows(config.settings_of(method)) for method in config.method}
    for seed in config.seeds:
        examples: Sequence[Any] = bare_examples(training_rows(config, rows.train, seed=seed), rows.task)
        if rows.upper is not None:
            examples = DividedRows(examples, bare_examples(rows.upper, rows.task))
        for make in (SplitLoaders if each else whole_loader for each in splitting):
            make(examples, config.fit_settings(seed=seed), collate=list, processes=processes)


def bare_examples(rows: Rows, task: AnyTask) -> list[dict[str, Any]]:
    """Return examples without tokens, as many of each row as its task makes of it.

    Example:
        >>> from bilora.models import embedded_reviews
        >>> from bilora.tasks.catalog import TASKS
        >>> bare_examples(embedded_reviews().select([0]), TASKS["rotten_tomatoes"])
        [{'labels': 1, 'group': 0}]
    """
    count = task.examples_of
    return [{"labels": row["label"], "group": group} for group, row in enumerate(rows) for _ in range(count(row))]


def shared_by_levels(config: RunConfig, rows: TaskRows) -> tuple[str, ...]:
    """Return a notice of texts that are in D1 and in D2, where D2 is drawn.

    It is of the first split of each seed; those that ``refresh`` draws later may share other texts.

    Example:
        >>> from bilora.runs.rows import load_run_rows
        >>> shared_by_levels(RunConfig(), load_run_rows(RunConfig()))
        ()
    """
    splitting = any(find_variant(method).splits_rows(config.settings_of(method)) for method in config.method)
    if rows.upper is not None or not splitting:
        return ()
    found = []
    for seed in config.seeds:
        own = training_rows(config, rows.train, seed=seed)
        split = split_rows(own.labels, ratio=config.split_ratio, seed=seed)
        upper = own.select(split.upper)
        found.append(shared_texts(rows.task, own.select(split.lower), upper))
    if not any(found):
        return ()
    counts = " to ".join(f"{each:,}" for each in sorted({min(found), max(found)}))
    return (
        f"{counts} of {len(upper):,} rows of D2 have the text of a row of D1, so that the upper level partly sees what "
        "the lower level has learned by heart; keep one row of each text",
    )


def check_watched(config: RunConfig, rows: TaskRows) -> None:
    """Check that no step is chosen by the set that gives the score.

    Raises:
        SettingsError: The validation set is D2, so that only the scored set is left to watch.
    """
    if rows.upper is not None and (config.early_stopping or config.keep_best):
        raise SettingsError(
            f"early_stopping and keep_best would choose by the {next(iter(rows.validation))} set, which gives the "
            "score, since the validation set is D2; set task_settings.d2 to split, or leave both out"
        )


def check_shared(config: RunConfig, processes: Processes) -> None:
    """Refuse what needs several processes, or one alone, before a model is read.

    Raises:
        SettingsError: ``shard_base`` without several processes, or ``on_out_of_memory: halve`` with them.
    """
    if config.shard_base and processes.count == 1:
        raise SettingsError(ALONE)
    check_halving(config.fit_settings(seed=0), processes)
