"""The folder of a run, read back as tables."""

import collections
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from bilora.artifacts.scored_on import UPPER, VALIDATION
from bilora.engines.checkpoints.config_change import deciding_settings
from bilora.errors import DataError
from bilora.files.formats import load_yaml, read_lines
from bilora.report.run_files import (
    finite,
    read_answers,
    read_classes,
    read_label_issues,
    read_metrics,
    read_object,
    read_spectrum,
    read_values,
    reading,
    stages_in_words,
    trained_task,
)
from bilora.runs.table import summarise
from bilora.tasks.kinds import TASK_FILE
from bilora.tasks.task import AnyTask

# Of all_results.json, the numbers that sentences are made of.
NUMBERS_AT_END = (
    *("score", "train_loss", "validation_loss", "seconds", "peak_memory_mb", "trainable_parameters"),
    *("steps", "best_step"),
)
# Fields of a line of predictions that hold texts of the row.
TEXTS = ("text", "tokens", "source", "output", "references")

# Letters of settings in a label: a row and the name of a picture have room for so many.
LONGEST = 80


@dataclass(frozen=True)
class ReadRun:
    """What a run has written; tables of files that it has not are empty."""

    folder: Path
    # Its label in a comparison, or its method; with settings where runs of one label differ in more than the seed.
    label: str
    seed: int
    config: dict[str, Any]
    # Those of the config that decide its numbers, beside the seed, by dotted name; None is as good as nothing.
    settings: dict[str, str]
    results: dict[str, Any]
    # A row per line of metrics.jsonl, of a step or of a validation: run (the folder), label, step, seconds since the
    # start, and the numbers under their keys (lower_loss, validation.accuracy).
    metrics: pandas.DataFrame
    # step, layer, term, value: a row per reading of a pseudo singular value.
    values: pandas.DataFrame
    # A row per term at the end: layer, term, value (its magnitude), and kept (terms of the layer).
    spectrum: pandas.DataFrame
    # Which of its steps were for what, in words; empty where no stage says it.
    stages: str
    # What it has learned beside its adapter, with `words` where they are for people.
    learned: dict[str, Any]
    per_class: list[dict[str, Any]]
    # The road from doubtful and trusted rows, with why it was chosen, and the labels that are most likely wrong.
    road: dict[str, Any]
    label_issues: list[dict[str, Any]]
    # What it is in its comparison; empty outside of one.
    comparison: dict[str, Any]
    # What its adapter was trained for; None for a kind of task that is not of this library, or is not told.
    task: AnyTask | None
    # The lines of predictions-<set>.jsonl, of the set that gave the score, and the same decision by decision.
    answers: list[dict[str, Any]]
    judged: pandas.DataFrame
    # Numbers of its results; None for what is missing or not finite.
    numbers: dict[str, float | None]
    metrics_at_end: dict[str, float | None]
    # Whether it is of the baseline of its comparison; of a single one, nobody has said so.
    is_baseline: bool = False

    @property
    def name(self) -> str:
        """Label and seed."""
        return f"{self.label}, seed {self.seed}"

    @functools.cached_property
    def predictions(self) -> pandas.DataFrame:
        """label, prediction: a row per validation row, if the kind of task keeps both."""
        rows = pandas.DataFrame(self.answers)
        return rows if {"label", "prediction"} <= set(rows) else pandas.DataFrame()

    @property
    def method(self) -> str:
        """Name of its method."""
        method = self.config["method"]
        # Earlier versions wrote a method as a list of one.
        return str(method if isinstance(method, str) else method[0])

    @property
    def metric(self) -> str:
        """Key of the metric that is its score."""
        return str(self.results.get("metric", "score"))

    @property
    def greater_is_better(self) -> bool | None:
        """Whether a larger score is better; None where nothing says so."""
        if self.task is not None:
            return self.task.greater_is_better
        greater = self.comparison.get("greater_is_better")
        return greater if isinstance(greater, bool) else None

    @property
    def task_name(self) -> str:
        """Name of its task, as its results have it."""
        return str(self.results.get("task") or self.config.get("task") or "run")

    @functools.cached_property
    def rows_key(self) -> str:
        """A hash of the rows that gave the score, with their labels."""
        sides = ("id", "row", "label", "tags", "references")
        rows = [[row.get(side) for side in sides] for row in self.answers]
        return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()

    @property
    def source(self) -> str | None:
        """The file of the rows that gave the score, where it was kept."""
        sources = self.results.get("sources")
        return str(next(iter(sources.values()))) if isinstance(sources, dict) and sources else None

    @property
    def parameters(self) -> int | None:
        """Number of trained parameters."""
        count = self.numbers["trainable_parameters"]
        return None if count is None else int(count)

    @property
    def scored_on(self) -> str:
        """Whether its numbers are of validation rows or of D2, see :mod:`bilora.artifacts.scored_on`."""
        return UPPER if f"{UPPER}.loss" in self.metrics else VALIDATION


def read_run(folder: Path) -> ReadRun:
    """Return what a run has written into its folder; only its config and its metrics must be there."""
    missing = [name for name in ("config.yaml", "metrics.jsonl") if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} is not the folder of a run: it has no {' and no '.join(missing)}")
    with reading(folder / "config.yaml") as path:
        config = load_yaml(path)
        method = config["method"]
        seed = int(config["seed"] if "seed" in config else config["seeds"][0])
        # Earlier versions wrote a method and a seed as a list of one.
        comparison = read_object(folder / "comparison.json", kind=dict)
        label = str(comparison.get("label", method if isinstance(method, str) else method[0]))
        decided = deciding_settings(config)
    results = read_object(folder / "all_results.json", kind=dict)
    with reading(folder / "all_results.json"):
        # What the page makes of them, made here, where the file can be named.
        summarise([results] if results else [])
        dict(results.get("versions", {}).items())
        stages = stages_in_words(results.get("stages", []))
        numbers = {name: finite(results.get(name)) for name in NUMBERS_AT_END}
        metrics_at_end = {str(name): finite(value) for name, value in results.get("metrics", {}).items()}
    task = trained_task(folder / "adapter" / TASK_FILE)
    answers, decisions = read_answers(folder, task)
    return ReadRun(
        folder=folder,
        label=label,
        seed=seed,
        config=config,
        settings={name: str(value) for name, value in decided.items() if value is not None and name != "seed"},
        results=results,
        metrics=read_metrics(folder).assign(run=str(folder), label=label),
        values=read_values(folder / "values.jsonl"),
        spectrum=read_spectrum(folder / "spectrum.json"),
        stages=stages,
        learned=read_object(folder / "learned.json", kind=dict),
        per_class=read_classes(folder / "labels.json"),
        road=read_object(folder / "road.json", kind=dict),
        label_issues=read_label_issues(folder / "label_issues.csv"),
        comparison=comparison,
        task=task,
        answers=answers,
        judged=decisions,
        numbers=numbers,
        metrics_at_end=metrics_at_end,
    )


def read_runs(folders: Iterable[Path]) -> list[ReadRun]:
    """Return all runs in folders, each that of a run, of a comparison or of a program that compares methods."""
    # By their resolved folder: one that is named twice, or is in another one, is shown once.
    runs: dict[Path, ReadRun] = {}
    for folder in folders:
        run_folders = _run_folders(folder)
        rows = read_lines(folder / "results.jsonl")
        order = list(dict.fromkeys(str(row.get("label", row.get("method"))) for row in rows))
        baseline = _baseline(folder / "config.yaml")
        inside = [read_run(path) for path in run_folders]
        inside = [dataclasses.replace(run, is_baseline=run.label == baseline) for run in inside]
        inside.sort(key=lambda run: (order.index(run.label) if run.label in order else len(order), run.label, run.seed))
        runs |= {run.folder.resolve(): run for run in inside}
    return _told_apart(list(runs.values()))


def _baseline(path: Path) -> str | None:
    """Return the baseline that the settings of a comparison name; None for the folder of anything else."""
    if not path.is_file():
        return None
    with reading(path):
        baseline = load_yaml(path).get("baseline")
    return baseline if isinstance(baseline, str) else None


def _told_apart(runs: Sequence[ReadRun]) -> list[ReadRun]:
    """Return the runs, with labels that two share only where they are seeds of one and the same run."""
    made: collections.Counter[tuple[str, int, frozenset[tuple[str, str]]]] = collections.Counter()
    of_label: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        made[key := (run.label, run.seed, frozenset(run.settings.items()))] += 1
        # A run that was made again is no further seed, and would be averaged with itself.
        of_label.setdefault(run.label, []).append({**run.settings, "copy": str(made[key])})
    settings = {label: iter(of_runs) for label, of_runs in of_label.items()}
    return [_labelled(run, next(settings[run.label]), of_label[run.label]) for run in runs]


def _labelled(run: ReadRun, settings: dict[str, str], of_label: Sequence[dict[str, str]]) -> ReadRun:
    names = dict.fromkeys(name for other in of_label for name in other)
    differing = [name for name in names if len({other.get(name) for other in of_label}) > 1]
    if not differing:
        return run
    words = ", ".join(f"{name} {settings.get(name)}" for name in differing)
    if len(words) > LONGEST:
        # The hash keeps two apart that are alike so far.
        words = f"{words[:LONGEST]}…{hashlib.sha256(words.encode()).hexdigest()[:6]}"
    label = f"{run.label} ({words})"
    return dataclasses.replace(run, label=label, metrics=run.metrics.assign(label=label))


def _run_folders(folder: Path) -> list[Path]:
    # Not the path's own method, which raises for a name that is too long.
    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {folder}")
    if (folder / "metrics.jsonl").is_file():
        return [folder]
    below = sorted(path.parent for pattern in ("*", "runs/*") for path in folder.glob(f"{pattern}/metrics.jsonl"))
    # The trials of a comparison, among which its settings were chosen, are no result.
    reported = [path for path in below if read_object(path / "comparison.json", kind=dict).get("purpose") != "choose"]
    if not reported:
        raise DataError(f"{folder} holds no run: neither it nor a folder in it has a metrics.jsonl")
    return reported


def without_texts(run: ReadRun) -> ReadRun:
    """Return a run of which no text of a row is kept."""
    # Of a kind that is not known, labels and answers may be texts too.
    known = run.task is not None
    answers = (
        [{name: value for name, value in row.items() if name not in TEXTS} for row in run.answers] if known else []
    )
    return dataclasses.replace(
        run,
        answers=answers,
        judged=run.judged.assign(text=None) if known else run.judged[:0],
        label_issues=[{name: value for name, value in row.items() if name != "text"} for row in run.label_issues],
    )
