"""A task as a file beside an adapter, so that the adapter alone says what it reads and predicts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilora.errors import DataError
from bilora.tasks.catalog import Task, find_task
from bilora.tasks.task import AnyTask
from bilora.tasks.tokens.task import TokenTask

TASK_FILE = "bilora_task.json"

TASK_CLASSES: dict[str, Any] = {"text": Task, "tokens": TokenTask}
"""The classes of tasks that are rebuilt from a file, by kind; a task of another kind is found by its name."""


def write_task(folder: Path, task: AnyTask, *, max_length: int) -> None:
    """Write what the adapter in ``folder`` was trained for.

    Args:
        folder: The folder.
        task: The task.
        max_length: Largest number of tokens of a row.

    Example:
        >>> import tempfile
        >>> from bilora.tasks.catalog import TASKS
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_task(folder, TASKS["mrpc"], max_length=64)
        >>> read_task(folder) == (TASKS["mrpc"], 64)
        True
    """
    fields = _fields(task) if task.kind in TASK_CLASSES else {"name": task.name}
    content = {"kind": task.kind, "max_length": max_length, "task": fields}
    (folder / TASK_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_task(folder: Path) -> tuple[AnyTask, int]:
    """Return the task and the largest number of tokens that :func:`write_task` wrote.

    Raises:
        DataError: There is no such file, or it is not what was written.
    """
    path = folder / TASK_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, fields, length = content["kind"], content["task"], int(content["max_length"])
        task = _built(TASK_CLASSES[kind], fields) if kind in TASK_CLASSES else find_task(fields["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: it says what the adapter was trained for, and cannot be read: {error}; give the folder of a run, "
            "or an adapter that was trained or exported by this library"
        ) from error
    return task, length


def _fields(task: AnyTask) -> dict[str, Any]:
    assert dataclasses.is_dataclass(task)  # those of TASK_CLASSES are
    return dataclasses.asdict(task)


def _built(made: Any, fields: Mapping[str, Any]) -> AnyTask:
    # JSON knows no tuples; every sequence among the fields is one.
    own = {name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()}
    task: AnyTask = made(**own)
    return task
