"""What is learnt: the tasks, their data, and the labels."""

from __future__ import annotations

from bilora.tasks.catalog import ALL_TASKS, Task, find_task

__all__ = ["ALL_TASKS", "Task", "find_task"]
