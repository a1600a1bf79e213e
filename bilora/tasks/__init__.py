"""What is learnt: the tasks, their data, and the labels."""

from bilora.tasks.catalog import ALL_TASKS, Task, find_task
from bilora.tasks.sources import take_rows
from bilora.tasks.text.batches import Collator

__all__ = ["ALL_TASKS", "Collator", "Task", "find_task", "take_rows"]
