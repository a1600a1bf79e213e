"""Any file of labelled texts as a task, and its rows."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence

from bilora.data.faults import refuse
from bilora.data.rows import Row, Rows, check_record, check_records
from bilora.data.sets import TaskRows, join_sets, shared_texts, take_validation
from bilora.data.tables import Record
from bilora.data.trusted_rows import check_trusted, divided_by_column
from bilora.errors import DataError, first_ten
from bilora.tasks.kinds import find_kind, guess_task_type
from bilora.tasks.labels import LabelledFiles, described
from bilora.tasks.task import AnyTask


def load_labelled_files(files: LabelledFiles, records: list[Record] | None = None) -> TaskRows:
    """Return the checked rows of the files, and the task that the labels of the training file make."""
    # ``records`` are those of the training file, where it was read before.
    records = files.read(files.train, records)
    # The classes are those of the training file: one that only validation rows have could not be learnt.
    labelled = _labelled(records, files)
    task_type = files.task_type or guess_task_type(labelled, files)
    kind = find_kind(task_type)
    task = kind.from_rows(labelled, files, task_type)
    if files.on_bad_row == "skip":
        # Which rows can be used depends on the task, and its classes on the rows: once round is enough for both.
        usable = [record for record in records if not check_record(record, task)[1]]
        # A label that only rows have which are left out is no class.
        task = kind.from_rows(_labelled(usable, files) if usable else labelled, files, task_type)
    train = check_records(records, task, source=files.train, split="train", on_bad_row=files.on_bad_row)
    guessed = f"{described(labelled, files)} make it {task_type}; to choose another, give --task-type"
    notices = [] if files.task_type else [guessed]
    train, trusted, more = _divided(files, task, train)
    notices += more
    sets = {}
    if files.validation is not None:
        sets["validation"] = check_records(
            files.read(files.validation), task, source=files.validation, split="validation", on_bad_row=files.on_bad_row
        )
    elif files.validation_share:
        count = len(train)
        train, sets["validation"] = take_validation(train, files.validation_share)
        notices.append(
            f"validation is {len(sets['validation'])} of the {count} rows of {files.train}, drawn with a fixed seed; "
            "the others are for training"
        )
    if trusted is None:
        return join_sets(task, train, sets, [*notices, *_rare_classes(task, train)])
    if files.validation is None and sets:
        notices.append(
            "the validation rows are doubtful ones, so that the score says how often the answers agree with labels "
            "that nobody has checked; give --validation-file for another"
        )
    for name, rows in sets.items():
        if shared := shared_texts(task, trusted, rows):
            notices.append(f"{shared} of {len(rows)} {name} rows have the text of a trusted row")
    return dataclasses.replace(join_sets(task, train, sets, notices), upper=trusted, doubtful=train)


def _divided(files: LabelledFiles, task: AnyTask, train: Rows) -> tuple[Rows, Rows | None, list[str]]:
    """Return the training rows, which are the doubtful ones where others are trusted, these, and notices."""
    if files.trusted_column is not None:
        train, trusted = divided_by_column(train, files.trusted_column)
    elif files.trusted is not None:
        if os.path.realpath(files.trusted) == os.path.realpath(files.train):
            raise DataError(
                f"{files.trusted} is the training file itself: its rows would be doubtful and trusted at once; give "
                "trusted rows a file of their own, or name the column that marks them as --trusted-column"
            )
        records = files.read(files.trusted)
        _refuse_other_classes(records, task, files)
        bad = files.on_bad_row
        trusted = check_records(records, task, source=files.trusted, split="trusted", on_bad_row=bad)
    else:
        return train, None, []
    train, notices = check_trusted(task, train, trusted)
    return train, trusted, notices


def _refuse_other_classes(records: Sequence[Record], task: AnyTask, files: LabelledFiles) -> None:
    assert files.trusted is not None
    names = task.model_settings.get("label2id", {})
    labels = (row.get(files.label_field) for _, row, faults in records if not faults)
    counts = Counter(str(label) for label in labels if isinstance(label, str | int | float) and label != "")
    others = [name for name in counts if name not in names]
    if names and others and files.on_bad_row == "error":
        raise DataError(
            f"{files.trusted}: {first_ten(map(repr, others))} in {files.label_field!r} "
            f"{'is no class' if len(others) == 1 else 'are no classes'} of {files.train}, which are: {first_ten(names)}"
            "; both files need the same classes"
        )


def _labelled(records: Sequence[Record], files: LabelledFiles) -> list[Row]:
    if all(faults for _, _, faults in records):
        texts = [fault.at(files.train, line) for line, _, faults in records for fault in faults]
        refuse(texts, source=f"{files.train}: no row can be used")
    return [row for _, row, faults in records if not faults and files.label_field in row]


def _rare_classes(task: AnyTask, train: Rows) -> list[str]:
    # The classes that cannot be in D1 and in D2 are named here: the split, which refuses them, knows numbers only.
    counts = Counter(label for label in train.labels if isinstance(label, int))
    if not counts:  # the rows are not stratified by classes
        return []
    rare = [
        f"class {index}, {name!r}, has {counts[index]} training rows, and a bi-level method needs 2"
        for index, name in enumerate(task.class_counts(train))
        if counts[index] < 2
    ]
    return [*rare[:10], *([f"and {len(rare) - 10:,} more classes have fewer than 2"] if len(rare) > 10 else [])]
