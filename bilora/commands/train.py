"""``bilora train``: one adapter for one task, from rows to a folder that can be shipped."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bilora.artifacts.model_card import push_to_hub
from bilora.artifacts.scored_on import UPPER, in_words, set_in_words, set_kind
from bilora.commands.train_config import TrainConfig
from bilora.commands.verb import Verb
from bilora.data.records import Record, read_records
from bilora.engines.callbacks.trackers import ReportTo
from bilora.errors import InterruptedRun, SettingsError
from bilora.files.formats import read_yaml
from bilora.metrics.monitor import Monitor
from bilora.processes.group import join_processes
from bilora.processes.processes import Processes
from bilora.runs.config import RunConfig
from bilora.runs.resume import command_folder, keep_config, resumed_folder
from bilora.runs.rows import load_run_rows
from bilora.runs.run import Prepared, prepare, run_once
from bilora.runs.self_check import SelfCheck, require_passed
from bilora.runs.table import print_table
from bilora.settings.sections import resolved
from bilora.tasks.labels import guess_text_columns

OPEN = ("steps", "refresh", "validate_every", "validation_share")
"""Settings that the command decides by the rows where they are null."""

TRAIN_FILE = "train.yaml"
"""The settings of the command; ``config.yaml`` has those of the run, which say what the command left open."""


def train(config: TrainConfig) -> Path:
    """Train, write the run's folder, check what was written, and return the folder.

    Of the processes that torchrun has started all train, and the first alone writes, checks and prints.
    """
    processes = join_processes(device=config.device)
    columns, records = text_columns_of(config)
    rows = load_run_rows(config.run_config(text_columns=columns), records)
    count = len(rows.train) if config.train_rows is None else config.train_rows
    steps = config.steps_for(count, processes=processes.count)
    run = config.run_config(steps=steps, text_columns=columns)
    prepared = prepare([run], rows, processes=processes)
    guessed = columns if config.text_columns is None else None
    processes.first_only(lambda: _say_plan(config, run, prepared, guessed=guessed))
    folder = processes.first_only(lambda: command_folder(config, task=rows.task.name))
    if processes.first_only(lambda: (folder / "all_results.json").is_file()):
        processes.first_only(lambda: print(f"run: {folder} (finished before)"))
        return folder
    check = _self_check(run, prepared)
    processes.first_only(lambda: keep_config(folder / TRAIN_FILE, config))
    row = _run(config, run, prepared, folder, check, processes)
    processes.first_only(lambda: _finish(config, row, folder, check))
    return folder


def _finish(config: TrainConfig, row: dict[str, Any], folder: Path, check: SelfCheck) -> None:
    print_table([row], title=f"{row['task']}: {in_words({row['scored_on']})}")
    print(f"run: {folder}")
    if config.self_check:
        require_passed(check.verdicts(folder))
    if config.push_to_hub:
        assert config.hub_model_id is not None  # the config has checked it
        print(f"uploaded: {push_to_hub(folder / 'adapter', repository=config.hub_model_id)}")


def _run(
    config: TrainConfig, run: RunConfig, prepared: Prepared, folder: Path, check: SelfCheck, processes: Processes
) -> dict[str, Any]:
    checks = (check,) if config.self_check else ()
    kind = set_kind(next(iter(prepared.validation)))
    hooks = (*(ReportTo(name, folder, resolved(run), scored_on=kind) for name in config.report_to), *checks)
    watched = Monitor("loss", greater_is_better=False) if config.watch == "loss" else None
    try:
        return run_once(run, prepared, folder=folder, callbacks=hooks, monitor=watched, processes=processes)
    except InterruptedRun as error:
        message = f"{error}; go on with bilora train --resume {folder}"
        raise InterruptedRun(message, number=error.number) from error


def resumed_words(argv: Sequence[str]) -> Sequence[str]:
    """Return the words that read the settings of the run that ``--resume`` names.

    Raises:
        SettingsError: It names the folder of no run that ``bilora train`` began.

    Example:
        >>> resumed_words(["--task", "mrpc"])
        ()
    """
    folder = resumed_folder(argv)
    if folder is None:
        return ()
    if not (folder / TRAIN_FILE).is_file():
        raise SettingsError(f"resume: {folder} is no run of bilora train (no {TRAIN_FILE} in it)")
    # Earlier versions wrote -1 for what is left open.
    left_open = [name for name, value in read_yaml(folder / TRAIN_FILE).items() if name in OPEN and value == -1]
    return ("--config", str(folder / TRAIN_FILE), *(f"--{name}=null" for name in left_open))


def text_columns_of(config: TrainConfig) -> tuple[tuple[str, ...] | None, list[Record] | None]:
    """Return the columns of text of the training file, None without one, and its records where they had to be read."""
    if config.train_file is None:
        return None, None
    if config.text_columns is not None:
        return tuple(config.text_columns), None
    records = read_records(config.train_file)
    rows = [row for _, row, faults in records if not faults]
    columns = [config.label_column] if isinstance(config.label_column, str) else config.label_column
    return guess_text_columns(rows, label_columns=columns, source=config.train_file), records


def _self_check(run: RunConfig, prepared: Prepared) -> SelfCheck:
    first = next(iter(prepared.validation.values()))
    return SelfCheck(prepared.task, prepared.tokenizer, first.encoded, device=run.device)


def _say_plan(config: TrainConfig, run: RunConfig, prepared: Prepared, *, guessed: tuple[str, ...] | None) -> None:
    for line in _plan(run, prepared, guessed=guessed):
        print(line, flush=True)
    if config.refresh and dataclasses.replace(config, refresh=0).watches_upper:
        print(f"note: refresh is {config.refresh}: no D2 stays to be watched, so rows are held out", flush=True)


def _plan(run: RunConfig, prepared: Prepared, *, guessed: tuple[str, ...] | None) -> Iterator[str]:
    task: Any = prepared.rows.task
    sets = ", ".join(f"{len(rows):,} {set_in_words(name)}" for name, rows in prepared.rows.validation.items())
    yield f"task {task.name}: {len(prepared.rows.train):,} training rows, {sets}; score: {task.metric}"
    if guessed is not None:
        yield f"note: the text is in {' and '.join(map(repr, guessed))}; --text-columns says otherwise"
    for notice in (*prepared.rows.notices, *prepared.notices):
        yield f"note: {notice}"
    looked, looks = ("D2 looked at", "looks") if UPPER in prepared.validation else ("validated", "validations")
    stop = f", ended early after {run.early_stopping} {looks} without gain" if run.early_stopping else ""
    plan = f"{run.steps} steps on {prepared.tokenizer.place}, {looked} every {run.validate_every}"
    yield f"{run.method}: {plan}{stop}"


TRAIN = Verb(
    "train",
    "Train an adapter on labelled rows, keep the best, and check that it can be loaded.",
    TrainConfig,
    train,
    before=resumed_words,
    together=True,
)
