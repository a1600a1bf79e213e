"""The tables of a report, as rows of text cells."""

from collections.abc import Sequence
from typing import Any

from bilora.artifacts.scored_on import VALIDATION
from bilora.report.figures import by_label
from bilora.report.measured import Difference, Measured
from bilora.report.read_run import ReadRun
from bilora.report.verdict import words
from bilora.runs.statistics import Interval
from bilora.runs.table import Spread, spread_cell, summarise

NONE = "–"  # noqa: RUF001  # an empty cell

# Columns of the table of a terminal that are a table of their own on the page.
LOSSES = ("train loss", "D2 loss", "validation loss", "gap")

# Settings that say how a run was made, by their dotted name in its config, in the words of the table.
SETTINGS = {
    "task": "task",
    "train_file": "training file",
    "validation_file": "validation file",
    "trusted_file": "trusted file",
    "model": "base model",
    "method": "method",
    "formulation": "formulation",
    "hypergradient": "hypergradient",
    "rank": "rank",
    "alpha": "alpha",
    "target_modules": "adapted modules",
    "lower.learning_rate": "learning rate",
    "upper.learning_rate": "learning rate above",
    "lower.batch_size": "batch size",
    "unroll_steps": "lower steps per upper step",
    "split_ratio": "share of D1",
    "class_weights": "class weights",
    "max_length": "longest text, tokens",
    "precision": "precision",
}


def score_rows(runs: Sequence[ReadRun], methods: Sequence[Measured]) -> list[dict[str, str]]:
    """Return a row per method: its score with interval, the difference to the baseline, and what it cost."""
    rows = summarise([{**run.results, "method": run.label} for run in runs if run.results])
    of_label = {method.label: method for method in methods}
    compared = len(methods) > 1
    told = []
    for row in rows:
        method, cells = of_label[row["method"]], dict[str, str]()
        for name, cell in row.items():
            if name not in LOSSES:
                cells[words(name)] = cell
            if name == method.metric:
                cells["95% interval"] = span(method.interval)
                cells |= _difference(method.difference, is_baseline=method.is_baseline) if compared else {}
        told.append(cells)
    return told


def loss_rows(runs: Sequence[ReadRun]) -> list[dict[str, str]]:
    """Return a row per method with its losses, which do not fit beside the scores."""
    rows = summarise([{**run.results, "method": run.label} for run in runs if run.results])
    return [{name: cell for name, cell in row.items() if name in ("method", *LOSSES)} for row in rows]


def _difference(difference: Difference | None, *, is_baseline: bool) -> dict[str, str]:
    names = ("difference", "its 95% interval", "p")
    if is_baseline:
        return dict(zip(names, ("baseline", NONE, NONE), strict=True))
    if difference is None:
        return dict.fromkeys(names, NONE)
    p_value = NONE if difference.p_value is None else f"{difference.p_value:.2g} ({difference.tested})"
    interval = NONE if difference.interval is None else span(difference.interval, "+.3f")
    return dict(zip(names, (f"{difference.mean:+.3f}", interval, p_value), strict=True))


def span(interval: Interval | None, form: str = ".3f") -> str:
    """Return an interval as a cell."""
    return NONE if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def metric_rows(runs: Sequence[ReadRun]) -> list[dict[str, str]]:
    """Return a row per metric beside the score, with the mean and deviation of each method."""
    groups = by_label([run for run in runs if run.results])
    names = dict.fromkeys(name for same in groups.values() for run in same for name in run.metrics_at_end)
    rows = []
    for name in names:
        # The score, and the loss on the validation rows, have a place in the table of scores.
        if name not in {run.metric for run in runs} | {"loss"}:
            cells = {
                label: spread_cell(Spread.of(run.metrics_at_end.get(name) for run in same))
                for label, same in groups.items()
            }
            rows.append({"metric": words(name), **cells})
    return rows


def settings_rows(runs: Sequence[ReadRun]) -> list[dict[str, str]]:
    """Return a row per setting that the run of some method has, with the steps that were made and the best one."""
    groups = by_label(runs)
    rows = [{"setting": name, **_cells(groups, key)} for key, name in SETTINGS.items()]
    made = {
        "steps": {label: _listed(run.numbers["steps"] for run in same) for label, same in groups.items()},
        "best step": {label: _listed(run.numbers["best_step"] for run in same) for label, same in groups.items()},
        "seeds": {label: ", ".join(str(run.seed) for run in same) for label, same in groups.items()},
        "scored on": {label: _scored_on(same[0]) for label, same in groups.items()},
    }
    rows += [{"setting": name, **cells} for name, cells in made.items()]
    return [row for row in rows if set(list(row.values())[1:]) != {NONE}]


def _cells(groups: dict[str, list[ReadRun]], key: str) -> dict[str, str]:
    return {label: _setting(same[0], key) for label, same in groups.items()}


def _setting(run: ReadRun, key: str) -> str:
    if key == "method":
        return run.method
    value: Any = run.config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return NONE if value is None else str(value)


def _listed(values: Any) -> str:
    return ", ".join(dict.fromkeys(NONE if value is None else f"{value:,.0f}" for value in values))


def _scored_on(run: ReadRun) -> str:
    kind = "validation rows" if run.scored_on == VALIDATION else "D2, trained on above"
    count = f"{len(run.answers):,} " if run.answers else ""
    return f"{count}{kind}" + (f" of {run.source}" if run.source else "")


def class_cells(row: dict[str, Any]) -> dict[str, str]:
    """Return a row of numbers per class as cells."""
    return {name: _class_cell(name, value) for name, value in row.items()}


def _class_cell(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return span(value)
    if value is None:
        return NONE if name == "mostly taken for" else "undefined"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
