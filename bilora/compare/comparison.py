"""A comparison from end to end: choose each method's settings, run all seeds, write what came of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilora.compare.choice import Choice, choose, steps_in_time
from bilora.compare.config import NO_OPTIONS, ComparisonConfig
from bilora.compare.jobs import Job, run_jobs
from bilora.compare.lines import Line, lines_of
from bilora.compare.written import print_comparison, write_comparison
from bilora.data.sets import TaskRows
from bilora.errors import SettingsError
from bilora.files.formats import write_json, write_yaml
from bilora.files.lock import locked
from bilora.runs.config import RunConfig
from bilora.runs.rows import load_run_rows
from bilora.settings.sections import resolved


def run_comparison(config: ComparisonConfig, *, command: str) -> list[Line]:
    """Run what is not there yet, write the tables and print them.

    Args:
        config: The comparison.
        command: The words that started it, for the tables.

    Returns:
        One line a method.
    """
    rows = load_run_rows(config.run)  # before anything is made: bad rows are told at once
    for notice in rows.notices:
        print(f"note: {notice}")
    folder = _folder(config, rows.task.name)
    with locked(folder):
        return _compared(config, rows, folder, command)


def _compared(config: ComparisonConfig, rows: TaskRows, folder: Path, command: str) -> list[Line]:
    said = resolved(config)
    # What is no option of the command is no key of its file, which can be read back.
    said["run"] = {name: each for name, each in said["run"].items() if name not in NO_OPTIONS}
    write_yaml(folder / "config.yaml", said)
    at_once = _at_once(config.jobs)
    choices = choose_all(config, folder, at_once=at_once)
    write_json(folder / "chosen.json", {label: dataclasses.asdict(each) for label, each in choices.items()})
    jobs = report_jobs(config, choices)
    records = _run(jobs, folder, at_once=at_once, what="run")
    lines = lines_of(config, records, folder=folder, task=rows.task)
    write_comparison(folder, config, records=records, lines=lines, choices=choices, command=command)
    print_comparison(lines, title=f"{rows.task.name}: {len(config.seed_list)} seeds, validation split")
    print(f"tables, runs and adapters: {folder}")
    return lines


def choose_all(config: ComparisonConfig, folder: Path, *, at_once: int) -> dict[str, Choice]:
    """Return the choice of every entry, after the trials that it needs."""
    jobs = choice_jobs(config)
    records = _run(jobs, folder, at_once=at_once, what="trial")
    return {
        label: choose(label, config.candidates(label), [each for each in records if each["label"] == label])
        for label in config.methods
    }


def choice_jobs(config: ComparisonConfig) -> list[Job]:
    """Return the trials; there are none where nothing is to be chosen or timed.

    Example:
        >>> [job.candidate for job in choice_jobs(ComparisonConfig(methods=["lora"], learning_rates=[1e-3]))]
        []
    """
    if len(config.candidates(config.baseline)) == 1 and config.budget == "steps":
        return []
    return [
        _job(config, label, seed, candidate, config.config_of(label, candidate), held_out=config.choose_share)
        for seed in config.seed_list[: config.choose_seeds]
        for label in config.methods
        for candidate in config.candidates(label)
    ]


def report_jobs(config: ComparisonConfig, choices: Mapping[str, Choice]) -> list[Job]:
    """Return the runs that are reported, methods in turn within a seed."""
    configs = {label: _budgeted(config, label, choices) for label in config.methods}
    return [
        _job(config, label, seed, choices[label].candidate, configs[label])
        for seed in config.seed_list
        for label in config.methods
    ]


def _job(
    config: ComparisonConfig,
    label: str,
    seed: int,
    candidate: dict[str, Any],
    run: RunConfig,
    *,
    held_out: float | None = None,
) -> Job:
    # A choice needs the last score alone; to watch the trials would cost time and change nothing.
    every = run.validate_every if held_out is None else 0
    return Job(label, seed, dataclasses.replace(run, seeds=[seed], validate_every=every), candidate, held_out)


def _budgeted(config: ComparisonConfig, label: str, choices: Mapping[str, Choice]) -> RunConfig:
    run = config.config_of(label, choices[label].candidate)
    own, baseline = choices[label].seconds, choices[config.baseline].seconds
    if config.budget == "steps" or own is None or baseline is None:
        return run
    return dataclasses.replace(run, steps=steps_in_time(run.steps, own_seconds=own, baseline_seconds=baseline))


def _run(jobs: Sequence[Job], folder: Path, *, at_once: int, what: str) -> list[dict[str, Any]]:
    """Return the records of the jobs, in their order, and say what is done as it is done."""
    found: dict[str, dict[str, Any]] = {}
    for job, record in run_jobs(jobs, folder, at_once=at_once):
        found[job.name] = record
        print(f"{what} {len(found)}/{len(jobs)}: {_said(job, record)}", flush=True)
    return [found[job.name] for job in jobs]


def _said(job: Job, record: Mapping[str, Any]) -> str:
    row = record["row"]
    settings = ", ".join(f"{name} {value}" for name, value in job.candidate.items())
    name = f"{job.label}, seed {job.seed}" + (f", {settings}" if settings else "")
    if row is None:
        return f"{name}: {record['failed']}"
    score = "undefined" if row["score"] is None else f"{row['score']:.3f}"
    return f"{name}: {row['metric']} {score} in {row['seconds']:.0f} s"


def _folder(config: ComparisonConfig, task: str) -> Path:
    folder = Path(config.output or f"runs/compare-{task}")
    there = folder.is_dir() and any(folder.iterdir())
    if there and not (folder / "config.yaml").is_file():
        raise SettingsError(f"output folder {folder} holds something else than a comparison; name another one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output folder {folder} cannot be created: {error}") from error
    return folder


def _at_once(jobs: int) -> int:
    """Return how many runs there may be at once: no more than cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs > cores:
        print(f"note: jobs is {jobs}, and this process may use {cores} cores; {cores} runs at once")
    return min(jobs, cores)
