"""Any file of labelled texts as a task, and its rows."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence

from bilora.data.faults import refuse
from bilora.data.groups import groups_of
from bilora.data.rows import Row, Rows, check_record, check_records
from bilora.data.sets import TaskRows, join_sets, shared_texts, take_validation
from bilora.data.tables import Record
from bilora.data.trusted_rows import check_trusted, divided_by_column
from bilora.errors import DataError, first_ten
from bilora.tasks.kinds import find_kind, guess_task_type
from bilora.tasks.labels import LabelledFiles, described
from bilora.tasks.task import AnyTask

# With fewer validation rows one more or less that is right moves the score by three points or more.
FEW_TO_SCORE = 30


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
    train = _grouped(_checked(records, task, files, source=files.train, split="train"), files)
    guessed = f"{described(labelled, files)} make it {task_type}; to choose another, give --task-type"
    notices = [] if files.task_type else [guessed]
    if train.groups is not None:
        count = len(set(train.groups))
        notices.append(f"rows of one {files.group_column!r} stay together: {count:,} groups of {len(train):,} rows")
    train, trusted, more = _divided(files, task, train)
    notices += more
    sets = {}
    if files.validation is not None:
        validation = files.read(files.validation)
        sets["validation"] = _checked(validation, task, files, source=files.validation, split="validation")
    elif files.validation_share:
        count = len(train)
        train, sets["validation"] = take_validation(train, files.validation_share)
        few = "; a score of so few says little" if len(sets["validation"]) < FEW_TO_SCORE else ""
        notices.append(
            f"validation is {len(sets['validation'])} of the {count} rows of {files.train}, drawn with a fixed seed; "
            f"the others are for training{few}"
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
        if both := sum(group in (trusted.groups or ()) for group in rows.groups or ()):
            notices.append(f"{both} of {len(rows)} {name} rows are of the group of a trusted row")
    return dataclasses.replace(join_sets(task, train, sets, notices), upper=trusted, doubtful=train)


def _checked(records: Sequence[Record], task: AnyTask, files: LabelledFiles, *, source: str, split: str) -> Rows:
    cure = "; mend them, or leave such rows out with --on-bad-row skip"
    return check_records(records, task, source=source, split=split, on_bad_row=files.on_bad_row, cure=cure)


def _grouped(rows: Rows, files: LabelledFiles) -> Rows:
    column = files.group_column
    return rows if column is None else dataclasses.replace(rows, groups=groups_of(rows.rows, column))


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
        trusted = _grouped(_checked(records, task, files, source=files.trusted, split="trusted"), files)
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
    # Named here: the split, which leaves them in D1, knows numbers only.
    counts = Counter(label for label in train.labels if isinstance(label, int))
    if not counts:  # the rows are not stratified by classes
        return []
    rare = [repr(name) for index, name in enumerate(task.class_counts(train)) if counts[index] < 2]
    if not rare:
        return []
    which = f"class {rare[0]} has" if len(rare) == 1 else f"the classes {first_ten(rare)} have"
    return [f"{which} one training row: it is learned from, and no other row judges what is learned; add rows of it"]
