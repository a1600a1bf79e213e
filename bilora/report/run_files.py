"""Single files of a run's folder, each read as what the report makes of it; whatever is wrong names its file."""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import pandas

from bilora.artifacts.scored_on import UPPER, VALIDATION
from bilora.errors import DataError
from bilora.files.formats import parse_json, read_lines, read_text
from bilora.metrics.metric import Undefined
from bilora.report.judged import judged
from bilora.runs.label_issues import read_issues
from bilora.tasks.kinds import TASK_KINDS, read_task
from bilora.tasks.task import AnyTask

# The columns of metrics.jsonl that figures draw: numbers, and lists of them.
NUMBERS = re.compile(rf"step|.*loss|.*_norm|meter_cosine|({VALIDATION}|{UPPER})\..*")
RATES = re.compile(r".*_learning_rates")

# Labels that are likely wrong, of which there may be thousands.
SHOWN_ISSUES = 50


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Name the file in whatever a damaged or foreign one makes of its reading."""
    try:
        yield path
    except DataError:
        raise
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read: {type(error).__name__}: {text}; copy it from the run again") from error


def read_object(path: Path, *, kind: type) -> Any:
    """Return the object or list in a JSON file, an empty one where there is no file."""
    if not path.exists():
        return kind()
    with reading(path):
        return parse_json(read_text(path), str(path), kind=kind)


def stages_in_words(stages: Sequence[dict[str, Any]]) -> str:
    """Return which steps of a run were for what; empty where no stage says it."""
    parts, last = [], 0
    for stage in stages:
        first, last = last + 1, last + int(stage["steps"])
        if stage.get("title"):
            parts.append(f"steps {first} to {last}: {stage['title']}")
    return "; ".join(parts)


def read_metrics(folder: Path) -> pandas.DataFrame:
    """Return a row per line of metrics.jsonl, with the seconds since the start that times.jsonl has."""
    # Of two lines of one step the later one counts: a run that was cut off repeats the steps after its checkpoint.
    with reading(folder / "times.jsonl") as path:
        seconds = {int(line["step"]): float(line["seconds"]) for line in read_lines(path)}
    with reading(folder / "metrics.jsonl") as path:
        lines = read_lines(path)
        metrics = pandas.json_normalize(lines) if lines else pandas.DataFrame({"step": []})
        for name in metrics:
            if NUMBERS.fullmatch(str(name)):
                metrics[name] = pandas.to_numeric(metrics[name])
            elif RATES.fullmatch(str(name)):
                metrics[name].str[0].astype(float)
        return metrics.assign(seconds=metrics["step"].map(seconds))


def read_values(path: Path) -> pandas.DataFrame:
    """Return a row per reading of a pseudo singular value, in the order of the steps."""
    with reading(path):
        readings = {int(line["step"]): line["layers"] for line in read_lines(path)}
        terms = [
            {"step": step, "layer": layer, "term": term, "value": float(value)}
            for step, layers in sorted(readings.items())
            for layer, values in layers.items()
            for term, value in enumerate(values, start=1)
        ]
        return pandas.DataFrame(terms)


def read_spectrum(path: Path) -> pandas.DataFrame:
    """Return a row per rank-one term at the end of a run."""
    with reading(path):
        terms = [
            {"layer": str(layer["layer"]), "term": term, "value": float(value), "kept": int(layer["kept"])}
            for layer in {layer["layer"]: layer for layer in read_object(path, kind=list)}.values()
            for term, value in enumerate(layer["values"], start=1)
        ]
        return pandas.DataFrame(terms)


def read_classes(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the table by class."""
    with reading(path):
        return [dict(row) for row in read_object(path, kind=list)]


def read_label_issues(path: Path) -> list[dict[str, Any]]:
    """Return the labels that are most likely wrong, the most likely first."""
    if not path.exists():
        return []
    with reading(path):
        return [asdict(issue) for issue in read_issues(path)[:SHOWN_ISSUES]]


def read_answers(folder: Path, task: AnyTask | None) -> tuple[list[dict[str, Any]], pandas.DataFrame]:
    """Return the predictions on the set that gave the score, which is the first one that was written."""
    # The name decides between two of one moment, as files of a copied folder may be.
    files = sorted(folder.glob("predictions-*.jsonl"), key=lambda path: (path.lstat().st_mtime_ns, path.name))
    if not files:
        return [], judged([])
    with reading(files[0]) as path:
        answers = read_lines(path)
        # What the page makes of them, made here, where the file can be named.
        decisions = judged(answers)
        if task is not None and answers and (score := task.rescored(answers)) is not None:
            with contextlib.suppress(Undefined):
                score(numpy.arange(len(answers)))
        return answers, decisions


def trained_task(path: Path) -> AnyTask | None:
    """Return what an adapter was trained for; None where it is not told, or is of a kind that is the user's own."""
    about = read_object(path, kind=dict)
    with reading(path):
        # A folder names no code to import.
        return read_task(path.parent)[0] if about.get("kind") in TASK_KINDS else None


def finite(value: Any) -> float | None:
    """Return a number, None for what is missing or not finite."""
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None
