"""Any file of labelled texts as a task, and its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bilora.data.faults import refuse
from bilora.data.records import Record, is_untyped, read_records
from bilora.data.rows import Rows, check_record, check_records
from bilora.data.sets import TaskRows, join_sets, take_validation
from bilora.errors import DataError
from bilora.settings.lookup import did_you_mean
from bilora.tasks.catalog import Task
from bilora.tasks.labels import TASK_TYPES, LabelledFiles, described, guess_task_type, typed
from bilora.tasks.task import AnyTask


def load_labelled_files(files: LabelledFiles) -> TaskRows:
    """Return the checked rows of the files, and the task that their labels make.

    Text and whole numbers of at most 20 different values are classes, other numbers are quantities (regression), and
    lists are tags of tokens. The classes are those of the training file, in order of number or name.

    Args:
        files: The files and columns.

    Returns:
        The task, its rows, and notices of what was decided. There is no validation set where none is asked for.

    Raises:
        DataError: A file or row cannot be used; names file, line and field.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "mail.csv"
        >>> _ = path.write_text("body,kind\\n" + "win money,spam\\nsee you,ham\\n" * 10, encoding="utf-8")
        >>> rows = load_labelled_files(LabelledFiles(str(path), ("body",), "kind", validation_share=0.2))
        >>> rows.task.label_names, len(rows.train), len(rows.validation["validation"])
        (('ham', 'spam'), 16, 4)
    """
    records = read_labelled(files.train, files)
    labels = _labels(records, files)
    task_type = files.task_type or guess_task_type(labels, files)
    task = TASK_TYPES[task_type](files, labels)
    if files.on_bad_row == "skip":
        usable = [record for record in records if not check_record(record, task)[1]]
        # What only rows that are left out are labelled with is no class.
        labels = _labels(usable, files) if usable else labels
        task = TASK_TYPES[task_type](files, labels)
    train = check_records(records, task, source=files.train, split="train", on_bad_row=files.on_bad_row)
    notices = [] if files.task_type else [f"{described(labels, files)} make it {task_type}; --task-type says otherwise"]
    sets = {}
    if files.validation is not None:
        sets["validation"] = check_records(
            read_labelled(files.validation, files),
            task,
            source=files.validation,
            split="validation",
            on_bad_row=files.on_bad_row,
        )
    elif files.validation_share:
        count = len(train)
        train, sets["validation"] = take_validation(train, files.validation_share)
        notices.append(
            f"validation is {len(sets['validation'])} of the {count} rows of {files.train}, drawn with a fixed seed; "
            "the others are for training"
        )
    return join_sets(task, train, sets, [*notices, *_rare_classes(task, train)])


def _labels(records: Sequence[Record], files: LabelledFiles) -> list[Any]:
    """Return the labels of the records that could be read.

    Raises:
        DataError: None could.
    """
    if all(faults for _, _, faults in records):
        refuse(
            [fault.at(files.train, line) for line, _, faults in records for fault in faults],
            source=f"{files.train}: no row can be used",
        )
    return [row[files.label_column] for _, row, faults in records if not faults and files.label_column in row]


def _rare_classes(task: AnyTask, train: Rows) -> list[str]:
    """Say which classes cannot be in D1 and in D2; the split, which refuses them, knows their numbers only."""
    if not isinstance(task, Task) or task.label_names is None:
        return []
    counts = Counter(train.labels)
    return [
        f"class {index}, {name!r}, has {counts[index]} training rows, and a bi-level method needs 2"
        for index, name in enumerate(task.label_names)
        if counts[index] < 2
    ]


def read_labelled(path: str, files: LabelledFiles) -> list[Record]:
    """Return the records of a file with the columns of ``files``, and labels of text files as the numbers they are.

    Raises:
        DataError: The file cannot be read, or lacks a column.
    """
    records = read_records(path)
    if not records:
        raise DataError(f"{path} has no row; at least one is needed")
    _check_columns(path, records, files)
    if not is_untyped(path):
        return records
    column = files.label_column
    split = files.label_separator
    read = typed if split is None else lambda cell: [label.strip() for label in cell.split(split) if label.strip()]
    return [(line, {**row, column: read(row[column])} if row else row, faults) for line, row, faults in records]


def _check_columns(path: str, records: Sequence[Record], files: LabelledFiles) -> None:
    """Tell of a column that no row has once, and not once a row."""
    there = {name for _, row, _ in records for name in row}
    missing = [name for name in (*files.text_columns, files.label_column) if name not in there]
    if there and missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}; it has: {', '.join(sorted(there))}; name them with --text-columns "
            f"and --label-column.{did_you_mean(missing[0], there)}"
        )
