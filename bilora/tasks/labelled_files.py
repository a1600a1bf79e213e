"""Any file of labelled texts as a task, and its rows."""

from collections import Counter
from collections.abc import Sequence

from bilora.data.faults import refuse
from bilora.data.records import Record
from bilora.data.rows import Row, Rows, check_record, check_records
from bilora.data.sets import TaskRows, join_sets, take_validation
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
    return join_sets(task, train, sets, [*notices, *_rare_classes(task, train)])


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
