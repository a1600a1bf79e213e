"""Which labels are likely wrong: ranked by what a model says of rows that it was not trained on."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from bilora.data.rows import Rows
from bilora.errors import DataError
from bilora.files.formats import write_whole
from bilora.tasks.task import AnyTask, BaseTask

Chances = NDArray[numpy.float64]

COLUMNS = ("row", "text", "given_label", "likely_label", "confidence")
FILE = "label_issues.csv"


@dataclass(frozen=True)
class LabelIssue:
    """A label that is likely wrong."""

    row: int  # the line of the file, counted from 1
    text: str
    given: str
    likely: str
    confidence: float  # the probability of the likely label


def class_names(task: Any) -> tuple[str, ...]:
    """Return the classes of a task whose rows have one each.

    Raises:
        DataError: The task's rows do not have one class each.
    """
    names = getattr(task, "label_names", None)
    if names is None or "label2id" not in task.model_settings or task.hub_names.peft != "SEQ_CLS":
        raise DataError(f"labels are checked where each row has one class, and those of task {task.name!r} have not")
    return tuple(names)


def suspicion(labels: Sequence[int], chances: Chances) -> Chances:
    """Return how little each label is believed, ``1 - chances[i, label_i]``, one number per row."""
    # Here: cleanlab takes a second to import.
    from cleanlab.rank import get_label_quality_scores

    return 1.0 - numpy.asarray(get_label_quality_scores(numpy.asarray(labels), chances), dtype=numpy.float64)


def find_issues(rows: Rows, task: AnyTask, chances: Chances) -> list[LabelIssue]:
    """Return the rows whose label is likely wrong, the most suspicious first (Northcutt et al. 2021).

    Args:
        rows: Rows with one class each.
        task: Theirs.
        chances: Probabilities ``(rows, classes)`` by models that were not trained on the row.

    Raises:
        DataError: The task's rows do not have one class each.
    """
    from cleanlab.filter import find_label_issues

    names = class_names(task)
    labels = numpy.asarray(rows.labels, dtype=int)
    ranked = find_label_issues(labels, chances, return_indices_ranked_by="self_confidence", n_jobs=1)
    likely = chances.argmax(axis=1)
    return [
        LabelIssue(
            row=rows.lines[index],
            # A task of a user need not inherit the method.
            text=task.shown_text(rows[index]) if isinstance(task, BaseTask) else "",
            given=names[labels[index]],
            likely=names[likely[index]],
            confidence=float(chances[index, likely[index]]),
        )
        for index in map(int, ranked)
    ]


def write_issues(path: Path, issues: Sequence[LabelIssue]) -> None:
    """Write the issues as a csv file, the most suspicious first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((i.row, i.text, i.given, i.likely, f"{i.confidence:.3f}") for i in issues)
    write_whole(path, text.getvalue())


def read_issues(path: Path) -> list[LabelIssue]:
    """Return the issues of a file that :func:`write_issues` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            LabelIssue(int(row["row"]), row["text"], row["given_label"], row["likely_label"], float(row["confidence"]))
            for row in csv.DictReader(file)
        ]
