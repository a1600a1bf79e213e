"""The table of the kinds of task, one row a kind, and a task as a file beside an adapter."""

import json
from collections.abc import Sequence
from pathlib import Path

from bilora.data.rows import Row
from bilora.errors import SHORT, DataError, SettingsError
from bilora.files.formats import load_json, write_whole
from bilora.settings.lookup import find
from bilora.tasks.catalog import ALL_TASKS
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.multilabel.task import MultilabelTask
from bilora.tasks.task import AnyTask, HubNames, TaskKind
from bilora.tasks.text.task import TextTask
from bilora.tasks.tokens.task import TokenTask

# Every kind by the name that the file beside an adapter gives it, which is why a name here never changes.
TASK_KINDS: dict[str, type[TaskKind]] = {
    # First, as it knows its rows by the names of the columns.
    "generation": GenerationTask,
    "text": TextTask,
    "tokens": TokenTask,
    "multilabel": MultilabelTask,
}


def find_kind(task_type: str) -> type[TaskKind]:
    """Return the class of the kind that a ``--task-type`` names."""
    kind = find({name: kind for kind in TASK_KINDS.values() for name in kind.task_types}, task_type, kind="task_type")
    # A class of a user need not inherit ours, so it is known by what it can do.
    if not callable(getattr(kind, "from_rows", None)):
        raise SettingsError(f"task_type {task_type!r} is no class of tasks, such as a subclass of BaseTask")
    return kind


def guess_task_type(rows: Sequence[Row], files: LabelledFiles) -> str:
    """Return the task type that the labels of the rows speak for."""
    guesses = (kind.guess(rows, files) for kind in TASK_KINDS.values())
    # One kind always answers: "text", but for lists of labels; then "tokens" or "multilabel", by whether texts are
    # lists.
    return next(guess for guess in guesses if guess is not None)


def kind_of(task: AnyTask) -> str:
    """Return the name of a task's kind: its row in ``TASK_KINDS``, or ``package.module:NAME`` of a user's class."""
    owner = type(task)
    return next((name for name, kind in TASK_KINDS.items() if kind is owner), f"{owner.__module__}:{owner.__name__}")


def hub_names_of(peft: str) -> HubNames | None:
    """Return the names of the first kind that PEFT calls so, or None."""
    return next((kind.hub_names for kind in TASK_KINDS.values() if kind.hub_names.peft == peft), None)


TASK_FILE = "bilora_task.json"


def write_task(folder: Path, task: AnyTask, *, max_length: int) -> None:
    """Write what the adapter in ``folder`` was trained for."""
    content = {"kind": kind_of(task), "max_length": max_length, "task": task.to_dict()}
    # Not in ASCII, so that names of labels in any script stay readable.
    write_whole(folder / TASK_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_task(folder: Path, *, task_type: str | None = None) -> tuple[AnyTask, int]:
    """Return the task and ``max_length`` that :func:`write_task` wrote; no file, only ``task_type``, names code."""
    path = folder / TASK_FILE
    # Before the try: an unknown --task-type is no fault of the file.
    user_kind = None if task_type is None else find_kind(task_type)
    try:
        content = load_json(path)
        kind, fields, length = content["kind"], content["task"], content["max_length"]
        if type(length) is not int or length < 1:
            raise ValueError(f"max_length is {SHORT.repr(length)}, and must be a number of tokens")
        if not isinstance(fields, dict):
            raise ValueError(f"task is {SHORT.repr(fields)}, and must be an object")
        if user_kind is None and kind not in TASK_KINDS:
            raise ValueError(f"its kind of task is {kind!r}, which is not of this library; give --task-type {kind}")
        if set(fields) == {"name"}:  # as earlier versions wrote a task that answers with text
            return ALL_TASKS[fields["name"]], length
        return (user_kind or TASK_KINDS[kind]).from_dict(fields), length
    # What a file that was cut, edited or made by another program may raise on its way to a task.
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(
            f"{path}: it says what the adapter was trained for, and cannot be read: {reason}; give the folder of a "
            "run, or an adapter that was trained or exported by this library"
        ) from error
