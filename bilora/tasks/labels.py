"""What the labels of a file make of it: a task of classes, of quantities or of tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilora.data.faults import OnBadRow
from bilora.errors import DataError, SettingsError
from bilora.settings.lookup import did_you_mean
from bilora.tasks.catalog import Task
from bilora.tasks.task import AnyTask
from bilora.tasks.text.rows import class_name
from bilora.tasks.tokens.task import TokenTask, tags_in_order

MOST_NUMBERED_CLASSES = 20
"""More different whole numbers than these are taken for quantities, not for classes."""

_WHOLE = re.compile(r"0|-?[1-9]\d*")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")  # as in JSON


@dataclass(frozen=True)
class LabelledFiles:
    """Which files to read, and which of their columns.

    Args:
        train: Training file, of a form of :func:`~bilora.data.records.read_records`.
        text_columns: One or two columns of text; for token classification the one with the tokens.
        label_column: The column of labels; for token classification that of the tags, a list a row.
        label_columns: Several columns of 0 and 1, one per label, in place of the one.
        label_separator: What stands between the labels of a row, where a cell of text holds several.
        validation: Validation file; None takes a share of the training file.
        validation_share: That share, below 1; 0 takes none.
        task_type: A key of ``TASK_TYPES``; None lets the labels decide.
        on_bad_row: ``error`` refuses a file with rows that cannot be used, ``skip`` leaves them out with a warning.

    Raises:
        SettingsError: Names are missing or a value is unknown; all faults are told together.

    Example:
        >>> LabelledFiles("rows.csv", (), validation_share=2.0)
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: train_file 'rows.csv': text_columns is (), name one or two columns; \
validation_share is 2.0, it must be at least 0 and below 1
    """

    train: str
    text_columns: tuple[str, ...]
    label_column: str = "label"
    label_columns: tuple[str, ...] = ()
    label_separator: str | None = None
    validation: str | None = None
    validation_share: float = 0.1
    task_type: str | None = None
    on_bad_row: OnBadRow = "error"

    def __post_init__(self) -> None:
        faults = []
        if not 1 <= len(self.text_columns) <= 2:
            faults.append(f"text_columns is {self.text_columns!r}, name one or two columns")
        if self.label_column in self.text_columns:
            faults.append(f"label_column is {self.label_column!r}, which is among text_columns too")
        if self.label_columns:
            faults.append(f"label_column names {len(self.label_columns)} columns; name one, whose cells may be lists")
        if not 0 <= self.validation_share < 1:
            faults.append(f"validation_share is {self.validation_share}, it must be at least 0 and below 1")
        if self.task_type is not None and self.task_type not in TASK_TYPES:
            near = did_you_mean(self.task_type, TASK_TYPES)
            faults.append(f"task_type is {self.task_type!r}, known: {', '.join(TASK_TYPES)}.{near}")
        if self.on_bad_row not in ("error", "skip"):
            faults.append(f"on_bad_row is {self.on_bad_row!r}; allowed: error, skip")
        if faults:
            raise SettingsError(f"train_file {self.train!r}: " + "; ".join(faults))

    @property
    def name(self) -> str:
        """Return what the task is called: the name of the training file without its ends.

        Example:
            >>> LabelledFiles("data/reviews.csv.gz", ("text",)).name
            'reviews'
        """
        return Path(self.train).name.split(".")[0] or "rows"


def typed(cell: str) -> str | int | float:
    """Return a number for a cell that is written as one; what reads back differently (007) stays text.

    Example:
        >>> typed("7"), typed("7.5"), typed("007"), typed("seven")
        (7, 7.5, '007', 'seven')
    """
    if _WHOLE.fullmatch(cell):
        return int(cell)
    return float(cell) if _NUMBER.fullmatch(cell) else cell


def guess_task_type(labels: Sequence[Any], files: LabelledFiles) -> str:
    """Return the key of ``TASK_TYPES`` that the labels speak for.

    Example:
        >>> files = LabelledFiles("rows.csv", ("text",))
        >>> guess_task_type(["spam", "ham"], files), guess_task_type([0.5, 1], files), guess_task_type([0, 1], files)
        ('classification', 'regression', 'classification')
    """
    given = [label for label in labels if label is not None and label != ""]
    lists = sum(isinstance(label, list) for label in given)
    if lists and 2 * lists >= len(given):  # fewer are rows at fault
        return "token_classification"
    text = [label for label in given if isinstance(label, str)]
    if text and any(isinstance(label, float) for label in given):
        if files.on_bad_row == "skip" and 2 * len(text) < len(given):
            return "regression"
        raise DataError(
            f"{files.train}: the labels in {files.label_column!r} are numbers, but {text[0]!r} is among them; mend "
            "it, or say with --task-type what they are"
        )
    if text or any(isinstance(label, bool) for label in given):
        return "classification"
    if any(isinstance(label, float) for label in given) or len(set(given)) > MOST_NUMBERED_CLASSES:
        return "regression"
    return "classification"


def described(labels: Sequence[Any], files: LabelledFiles) -> str:
    """Return in words what the labels are.

    Example:
        >>> described(["spam", "ham", "ham"], LabelledFiles("rows.csv", ("text",)))
        "the labels in 'label' of rows.csv (text, 2 different)"
    """
    kinds = sorted({type(label).__name__ for label in labels if label is not None and label != ""})
    spoken = {"str": "text", "int": "whole numbers", "float": "numbers", "bool": "truth values", "list": "lists"}
    different = len({repr(label) for label in labels})
    what = " and ".join(spoken.get(kind, kind) for kind in kinds)
    return f"the labels in {files.label_column!r} of {files.train} ({what}, {different} different)"


def _classification(files: LabelledFiles, labels: Sequence[Any]) -> Task:
    names = {name for label in labels if (name := class_name(label)) is not None}
    if len(names) < 2:
        raise DataError(
            f"{files.train}: the labels in {files.label_column!r} are {'all ' + names.pop() if names else 'empty'}; "
            "a classification task needs two classes"
        )
    stripped = sorted(names, key=lambda name: (name.strip(), name))
    alike = [pair for pair in zip(stripped, stripped[1:], strict=False) if pair[0].strip() == pair[1].strip()]
    if alike:
        raise DataError(
            f"{files.train}: the labels {alike[0][0]!r} and {alike[0][1]!r} in {files.label_column!r} differ in spaces "
            "only; make them one"
        )
    if len(names) > 2 and len(names) > len(labels) / 2:
        raise DataError(
            f"{files.train}: {len(names)} different labels in {files.label_column!r} for {len(labels)} rows are too "
            "many to learn; name another --label-column"
        )
    return Task(
        files.name,
        files.text_columns,
        tuple(_in_order(names)),
        other_metrics=("macro_f1", "matthews_correlation"),
        label_field=files.label_column,
        labels_from=files.train,
    )


def _in_order(names: set[str]) -> list[str]:
    numbered = all(_WHOLE.fullmatch(name) for name in names)
    return sorted(names, key=int) if numbered else sorted(names)


def _regression(files: LabelledFiles, labels: Sequence[Any]) -> Task:
    return Task(
        files.name,
        files.text_columns,
        None,
        metric="pearson",
        other_metrics=("spearmanr",),
        label_field=files.label_column,
    )


def _token_classification(files: LabelledFiles, labels: Sequence[Any]) -> TokenTask:
    if len(files.text_columns) != 1:
        raise SettingsError(f"text_columns is {files.text_columns!r}; token classification reads one column of tokens")
    tags = {tag for label in labels if isinstance(label, list) for tag in label if isinstance(tag, str)}
    if len(tags) < 2:
        raise DataError(
            f"{files.train}: the tags in {files.label_column!r} are {', '.join(tags) or 'no text'}; token "
            "classification needs a list of tags a row, as text, and two different ones"
        )
    return TokenTask(
        files.name,
        tuple(tags_in_order(tags)),
        tokens_field=files.text_columns[0],
        tags_field=files.label_column,
        labels_from=files.train,
    )


TASK_TYPES: dict[str, Callable[[LabelledFiles, Sequence[Any]], AnyTask]] = {
    "classification": _classification,
    "regression": _regression,
    "token_classification": _token_classification,
}
"""How a task is made of files and the labels of the training file, by the name of its type."""


KNOWN_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("tokens",),
    ("text",),
    ("sentence",),
    ("review",),
    ("content",),
)
"""Names that data sets of the hub and of GLUE give to text, pairs before single ones."""

LOOKED_AT = 100
"""Rows that are looked at for columns of other names."""


def guess_text_columns(
    rows: Sequence[Mapping[str, Any]], *, label_columns: Sequence[str], source: str
) -> tuple[str, ...]:
    """Return the one or two columns of text: those of a known name, else all that hold text in every row.

    Args:
        rows: Rows of the file.
        label_columns: The columns of the labels, which are none of them.
        source: The file, for the error text.

    Raises:
        DataError: No column holds text, or more than two do.

    Example:
        >>> guess_text_columns([{"id": "7", "body": "see you", "label": 1}], label_columns=["label"], source="a.jsonl")
        ('body',)
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name not in label_columns))
    for known in KNOWN_COLUMNS:
        if set(known) <= set(names):
            return known
    found = tuple(name for name in names if all(_is_text(row.get(name)) for row in rows[:LOOKED_AT]))
    if not 1 <= len(found) <= 2:
        what = ", ".join(found) or "no column"
        raise DataError(
            f"{source}: {what} of {', '.join(names) or 'no columns'} could be the text; name one or two with "
            "--text-columns"
        )
    return found


def _is_text(value: Any) -> bool:
    """Return whether a value reads as text: one that holds a letter and a space, or ideographs."""
    return isinstance(value, str) and any(each.isalpha() for each in value) and (" " in value or not value.isascii())


def label_settings(names: Sequence[str]) -> dict[str, Any]:
    """Return ``num_labels``, ``id2label`` and ``label2id`` of transformers' configs.

    Args:
        names: A name for each class, in the order of the class indices.

    Example:
        >>> label_settings(("no", "yes"))["label2id"]
        {'no': 0, 'yes': 1}
    """
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
