"""A task as a file beside an adapter, so that the adapter alone says what it reads and predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bilora.errors import DataError
from bilora.tasks.catalog import ALL_TASKS
from bilora.tasks.kinds import TASK_KINDS, find_kind, kind_of
from bilora.tasks.task import AnyTask

TASK_FILE = "bilora_task.json"


def write_task(folder: Path, task: AnyTask, *, max_length: int) -> None:
    """Write what the adapter in ``folder`` was trained for."""
    content = {"kind": kind_of(task), "max_length": max_length, "task": task.to_dict()}
    (folder / TASK_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_task(folder: Path, *, task_type: str | None = None) -> tuple[AnyTask, int]:
    """Return the task and ``max_length`` that :func:`write_task` wrote; no file, only ``task_type``, names code."""
    path = folder / TASK_FILE
    user_kind = None if task_type is None else find_kind(task_type)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, fields, length = content["kind"], content["task"], int(content["max_length"])
        if user_kind is None and kind not in TASK_KINDS:
            raise ValueError(f"its kind of task is {kind!r}, which is not of this library; give --task-type {kind}")
        return _task(user_kind or TASK_KINDS[kind], fields), length
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: it says what the adapter was trained for, and cannot be read: {error}; give the folder of a run, "
            "or an adapter that was trained or exported by this library"
        ) from error


def _task(kind: Any, fields: dict[str, Any]) -> AnyTask:
    # Earlier versions wrote the name alone of a task that answers with text.
    task: AnyTask = ALL_TASKS[fields["name"]] if set(fields) == {"name"} else kind.from_dict(fields)
    return task
