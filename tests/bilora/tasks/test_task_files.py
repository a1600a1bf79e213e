"""Tasks as files: every kind comes back as it was, and what is no task is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bilora.errors import DataError
from bilora.tasks.catalog import ALL_TASKS, Task
from bilora.tasks.task_files import TASK_FILE, read_task, write_task

OWN = Task("mail", ("subject", "body"), ("ham", "spam"), label_field="kind", labels_from="mail.csv")


@pytest.mark.parametrize("task", [*ALL_TASKS.values(), OWN], ids=lambda task: task.name)
def test_a_task_comes_back_as_it_was(task: Any, tmp_path: Path) -> None:
    write_task(tmp_path, task, max_length=77)
    assert read_task(tmp_path) == (task, 77)


def test_the_file_is_strict_json_and_earlier_versions_wrote_tasks_of_texts_by_name(tmp_path: Path) -> None:
    write_task(tmp_path, OWN, max_length=8)
    read = json.loads((tmp_path / TASK_FILE).read_text(encoding="utf-8"))
    assert (read["kind"], read["task"]["label_names"]) == ("text", ["ham", "spam"])
    written = {"kind": "generation", "max_length": 77, "task": {"name": "e2e"}}
    (tmp_path / TASK_FILE).write_text(json.dumps(written), encoding="utf-8")
    assert read_task(tmp_path) == (ALL_TASKS["e2e"], 77)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"kind": "text", "max_length": 8, "task": {"name": "a"}}',
        '{"kind": "text", "max_length": 8, "task": {"name": "a", "text_fields": [], "label_names": null}}',
        '{"kind": "os:system", "max_length": 8, "task": {"name": "os:system"}}',
    ],
)
def test_what_is_no_task_is_refused_and_named(content: str, tmp_path: Path) -> None:
    (tmp_path / TASK_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=TASK_FILE):
        read_task(tmp_path)
