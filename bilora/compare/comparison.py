"""A comparison from end to end: choose each method's settings where there are several, run all seeds, write tables."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from bilora.compare.choice import Choice, choose
from bilora.compare.config import NO_OPTIONS, ComparisonConfig
from bilora.compare.folders import Job, Record, RecordFolder, ResultsFolder, run_name
from bilora.compare.jobs import read_rows, run_job
from bilora.compare.lines import Line, lines_of
from bilora.compare.on_ray import ray_cluster
from bilora.compare.workers import Lost, Outcome, RunJobs, run_jobs
from bilora.compare.written import in_words, print_comparison, write_comparison
from bilora.data.sets import TaskRows
from bilora.errors import InterruptedRun, ProcessesError, ResourceError, SettingsError
from bilora.files.formats import write_json, write_yaml
from bilora.files.lock import locked
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.report.figures import loss_curves
from bilora.report.read_run import read_run
from bilora.runs.folder import is_unused, plain_name
from bilora.runs.plan import load_run_rows, plan_run
from bilora.runs.resume import CONFIG, command_folder, keep_config
from bilora.runs.run import prepare
from bilora.runs.several_runs import SeveralRuns
from bilora.runs.table import print_table
from bilora.settings.lookup import TRUST, names_code
from bilora.settings.sections import resolved


def compare_methods(config: SeveralRuns, processes: Processes = ONE_PROCESS) -> list[dict[str, Any]]:
    """Compare a config's methods as they are, without candidates, and return the rows of results."""
    # All processes train together; the first alone holds the folder, writes and prints.
    rows = load_run_rows(config.run)
    processes.first_only(lambda: _print_notices(rows.notices))
    # For all runs together, so that a mistake in any of them is told before the folder is made.
    plans = [plan_run(run, rows, processes=processes) for run in config.runs]
    prepared = prepare(plans)
    processes.first_only(lambda: _print_notices(prepared.notices))
    path = processes.first_only(lambda: command_folder(config.run, task=rows.task.name))
    with processes.entered_by_first(locked(path)):
        folder = processes.first_only(lambda: ResultsFolder.opened(path, config))
        processes.first_only(lambda: keep_config(path / CONFIG, config))
        results = []
        try:
            for plan in plans:
                job = Job(plan.config.method, plan.config.seed, plan.config)
                record = folder.finished(job)
                if processes.is_first:
                    print(f"{folder.run_folder(job).name}: {'finished before' if record else 'training'}", flush=True)
                record = record or run_job(job, folder, plan=plan, prepared=prepared)
                results.append(record["row"])
        except InterruptedRun as error:
            trust = f" {TRUST}" if names_code(config) else ""
            raise InterruptedRun(f"{error}; go on with --resume {path}{trust}", number=error.number) from error
    title = f"{rows.task.name}: {len(config.seeds)} seeds, {next(iter(prepared.validation))} split"
    processes.first_only(lambda: _show(config, title, results, path))
    return results


def _show(config: SeveralRuns, title: str, results: list[dict[str, Any]], path: Path) -> None:
    for method in config.method:
        drawing = loss_curves([read_run(path / run_name(method, seed)) for seed in config.seeds])
        drawing.write_png(path / f"loss-{plain_name(method)}.png")
    print_table(results, title=title)
    print(f"results, plots and adapters: {path}")


def run_comparison(config: ComparisonConfig, *, command: str) -> list[Line]:
    """Choose each method's candidate, run what is not there yet, write and print the tables: one line per method."""
    rows = read_rows(config.run)  # before anything is made: bad rows are told at once
    _print_notices(rows.notices)
    path = _comparison_folder(config, rows.task.name)
    with locked(path):
        settings = resolved(config)
        # Written again each time: a comparison that is gone on with may have more seeds or methods than before.
        # What is no option of the command is no key of its file, which can be read back.
        settings["run"] = {name: value for name, value in settings["run"].items() if name not in NO_OPTIONS}
        write_yaml(path / CONFIG, settings)
        with _runner(config) as run_jobs:
            return _compared(config, rows, path, run_jobs=run_jobs, command=command)


def _compared(config: ComparisonConfig, rows: TaskRows, path: Path, *, run_jobs: RunJobs, command: str) -> list[Line]:
    # All trials of all methods first, so that several jobs at once never wait for one method to be done.
    trials = _run_all(choice_jobs(config), path, run_jobs=run_jobs, purpose="trial")
    choices = {
        label: choose(label, config.candidates(label), [trial for trial in trials if trial["label"] == label])
        for label in config.methods
    }
    write_json(path / "chosen.json", {label: dataclasses.asdict(choice) for label, choice in choices.items()})
    records = _run_all(report_jobs(config, choices), path, run_jobs=run_jobs, purpose="run")
    lines = lines_of(config, records, folder=path, task=rows.task)
    write_comparison(path, config, records=records, lines=lines, choices=choices, command=command)
    print_comparison(lines, title=f"{rows.task.name}: {len(config.seed_list)} seeds, validation split")
    print(f"tables, runs and adapters: {path}")
    return lines


def choice_jobs(config: ComparisonConfig) -> list[Job]:
    """Return the trials; there are none where nothing is to be chosen or timed."""
    if len(config.candidates(config.baseline)) == 1 and config.budget == "steps":
        return []
    # A choice needs the last score alone; to validate during the trials would cost time and change nothing.
    return [
        Job(
            label, seed, config.config_of(label, candidate, seed=seed, validate_every=0), candidate, config.choose_share
        )
        for seed in config.seed_list[: config.choose_seeds]
        for label in config.methods
        for candidate in config.candidates(label)
    ]


def report_jobs(config: ComparisonConfig, choices: Mapping[str, Choice]) -> list[Job]:
    """Return the runs that are reported."""
    jobs = []
    # Methods in turn within a seed: a comparison that is stopped half-way has pairs to compare.
    for seed in config.seed_list:
        for label in config.methods:
            candidate, steps = choices[label].candidate, _budgeted_steps(config, label, choices)
            jobs.append(Job(label, seed, config.config_of(label, candidate, seed=seed, steps=steps), candidate))
    return jobs


def _budgeted_steps(config: ComparisonConfig, label: str, choices: Mapping[str, Choice]) -> int:
    steps = config.config_of(label, choices[label].candidate).lower_steps
    seconds, baseline_seconds = choices[label].seconds, choices[config.baseline].seconds
    if config.budget == "steps" or seconds is None or baseline_seconds is None:
        return steps
    # The seconds are of equal steps: as many steps as fit in the time of the baseline's.
    return max(1, round(steps * baseline_seconds / seconds))


def _run_all(jobs: Sequence[Job], path: Path, *, run_jobs: RunJobs, purpose: str) -> list[Record]:
    """Return the records of the jobs, in their order, and print what is done as it is done."""
    outcomes: dict[str, Outcome] = {}
    for job, outcome in run_jobs(jobs, RecordFolder(path)):
        outcomes[job.name] = outcome
        print(f"{purpose} {len(outcomes)}/{len(jobs)}: {_in_words(job, outcome)}", flush=True)
    _refuse_lost([(job, outcomes[job.name]) for job in jobs], path=path)
    return [record for job in jobs if not isinstance(record := outcomes[job.name], Lost)]


def _refuse_lost(ended: Sequence[tuple[Job, Outcome]], *, path: Path) -> None:
    """Refuse to go on without the runs that were lost."""
    lost = [(job, outcome) for job, outcome in ended if isinstance(outcome, Lost)]
    if not lost:
        return
    kind = ResourceError if all(outcome.kind is ResourceError for _, outcome in lost) else ProcessesError
    raise kind(
        f"{len(lost)} of {len(ended)} runs did not end: {'; '.join(_in_words(*each) for each in lost)}. The others "
        f"are kept in {path}, and the same command runs these alone; where memory was short, give fewer --jobs, or on "
        "Ray more --cpus-per-run"
    )


def _in_words(job: Job, outcome: Outcome) -> str:
    name = ", ".join(filter(None, (job.label, f"seed {job.seed}", in_words(job.candidate))))
    if isinstance(outcome, Lost):
        return f"{name}: {outcome.reason}"
    row = outcome["row"]
    if row is None:
        return f"{name}: {outcome['failed']}"
    score = "undefined" if row["score"] is None else f"{row['score']:.3f}"
    return f"{name}: {row['metric']} {score} in {row['seconds']:.0f} s"


def _comparison_folder(config: ComparisonConfig, task: str) -> Path:
    path = Path(config.output or f"runs/compare-{task}")
    if path.is_dir() and not is_unused(path) and not (path / CONFIG).is_file():
        raise SettingsError(f"output folder {path} holds something else than a comparison; name another one")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output folder {path} cannot be created: {error}") from error
    return path


def _runner(config: ComparisonConfig) -> AbstractContextManager[RunJobs]:
    """Return where the runs are made, as a context in which they can be."""
    if config.runs_on == "local":
        return nullcontext(partial(run_jobs, at_once=_at_once(config.jobs)))
    return ray_cluster(config.ray_address, cpus=config.cpus_per_run, gpus=config.gpus_per_run)


def _at_once(jobs: int) -> int:
    """Return how many runs there are at once: at most one per core."""
    # Not os.cpu_count where it can be helped: in a container that has two of 64 cores, it says 64.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs > cores:
        print(f"note: jobs is {jobs}, and this process may use {cores} cores; {cores} runs at once")
    return min(jobs, cores)


def _print_notices(notices: Sequence[str]) -> None:
    for notice in notices:
        print(f"note: {notice}")
