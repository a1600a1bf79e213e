"""What of a run is checked before its model is read."""

from collections.abc import Iterable, Sequence
from typing import Any

from bilora.data.rows import Rows
from bilora.data.sets import TaskRows, shared_texts
from bilora.data.split import split_rows
from bilora.engines.training.saved_run import check_halving
from bilora.engines.training.split_loaders import DividedRows, SplitLoaders, whole_loader
from bilora.errors import SettingsError
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.processes.sharded import ALONE
from bilora.runs.config import RunConfig
from bilora.runs.rows import training_rows
from bilora.tasks.task import AnyTask


def check_room(runs: Iterable[RunConfig], rows: TaskRows, processes: Processes = ONE_PROCESS) -> None:
    """Make the loaders of every run over labels alone, so that too few rows are told before the model is read.

    Raises:
        DataError: A level has fewer rows than a batch.
        SettingsError: The loaders do not fit the settings.
    """
    for config in runs:
        examples: Sequence[Any] = bare_examples(training_rows(config, rows.train), rows.task)
        if rows.upper is not None:
            examples = DividedRows(examples, bare_examples(rows.upper, rows.task))
        make = SplitLoaders if config.splits_rows else whole_loader
        make(examples, config, collate=list, processes=processes)


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


def shared_by_levels(runs: Iterable[RunConfig], rows: TaskRows) -> tuple[str, ...]:
    """Return a notice of texts that are in D1 and in D2, where D2 is drawn.

    It is of the first split of each seed; those that ``refresh`` draws later may share other texts.

    Example:
        >>> from bilora.runs.rows import load_run_rows
        >>> shared_by_levels([RunConfig()], load_run_rows(RunConfig()))
        ()
    """
    splitting = [config for config in runs if config.splits_rows]
    if rows.upper is not None or not splitting:
        return ()
    shared = []
    for config in {config.seed: config for config in splitting}.values():
        train = training_rows(config, rows.train)
        split = split_rows(train.labels, ratio=config.split_ratio, seed=config.seed)
        upper = train.select(split.upper)
        shared.append(shared_texts(rows.task, train.select(split.lower), upper))
    if not any(shared):
        return ()
    counts = " to ".join(f"{count:,}" for count in sorted({min(shared), max(shared)}))
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
    check_halving(config, processes)
