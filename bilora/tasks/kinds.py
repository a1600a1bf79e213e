"""The table of the kinds of task."""

from __future__ import annotations

from collections.abc import Sequence

from bilora.data.rows import Row
from bilora.errors import SettingsError
from bilora.settings.lookup import find
from bilora.tasks.generation.task import GenerationTask
from bilora.tasks.labels import LabelledFiles
from bilora.tasks.multilabel.task import MultilabelTask
from bilora.tasks.task import AnyTask, HubNames, TaskKind
from bilora.tasks.text.task import TextTask
from bilora.tasks.tokens.task import TokenTask

TASK_KINDS: dict[str, type[TaskKind]] = {
    "text": TextTask,
    "tokens": TokenTask,
    "multilabel": MultilabelTask,
    "generation": GenerationTask,
}
"""Every kind by the name that the file beside an adapter gives it. A new kind is a folder with a class, and a row."""


def find_kind(task_type: str) -> type[TaskKind]:
    """Return the class of the kind that a ``--task-type`` names."""
    kind = find({name: kind for kind in TASK_KINDS.values() for name in kind.task_types}, task_type, kind="task_type")
    if not callable(getattr(kind, "from_rows", None)):
        raise SettingsError(f"task_type {task_type!r} is no class of tasks, such as a subclass of BaseTask")
    return kind


def guess_task_type(rows: Sequence[Row], files: LabelledFiles) -> str:
    """Return the task type that the labels of the rows speak for."""
    guesses = (kind.guess(rows, files) for kind in TASK_KINDS.values())
    return next(guess for guess in guesses if guess is not None)


def kind_of(task: AnyTask) -> str:
    """Return the name of a task's kind: its row in ``TASK_KINDS``, or ``package.module:NAME`` of a user's class."""
    owner = type(task)
    return next((name for name, kind in TASK_KINDS.items() if kind is owner), f"{owner.__module__}:{owner.__name__}")


def hub_names_of(peft: str) -> HubNames | None:
    """Return the names of the first kind that PEFT calls so, or None."""
    return next((kind.hub_names for kind in TASK_KINDS.values() if kind.hub_names.peft == peft), None)
