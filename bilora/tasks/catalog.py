"""The tasks the library knows: the nine of GLUE and the embedded default; each is one row of a table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bilora.data.faults import Fault
from bilora.errors import SettingsError
from bilora.settings.lookup import find
from bilora.tasks.generation.task import GENERATION_TASKS
from bilora.tasks.task import AnyTask
from bilora.tasks.text.rows import check_row
from bilora.tasks.tokens.task import TOKEN_TASKS


@dataclass(frozen=True)
class Task:
    """What a text classification or regression task reads, predicts and is judged by.

    Args:
        name: Folder name under a data directory, and configuration name on the hub.
        text_fields: One or two fields of a row that hold its text.
        label_names: A name for each class, in the order of the class indices; None for regression.
        validation_splits: Names of the validation sets; the first gives the score.
        metric: Key of the headline metric, the one used as score.
        greater_is_better: Whether a larger value of ``metric`` is better.
        other_metrics: Keys of the metrics reported beside the headline one.
        label_range: Smallest and largest label of a regression task; None if any finite number will do.
        hub: Id of the hub data set that has this task as a configuration; None if it is on no hub.
        label_field: The field of a row that holds its label.
        labels_from: The file whose labels ``label_names`` are. Labels are then read as names only: 1 is the class
            called 1, and not the one with that index.

    Raises:
        SettingsError: The settings do not fit each other; all faults are told together.

    Example:
        >>> task = Task("toy", ("text",), ("no", "yes"), metric="accuracy")
        >>> task.num_labels, task.is_regression
        (2, False)
    """

    kind: ClassVar[str] = "text"

    name: str
    text_fields: tuple[str, ...]
    label_names: tuple[str, ...] | None
    validation_splits: tuple[str, ...] = ("validation",)
    metric: str = "accuracy"
    greater_is_better: bool = True
    other_metrics: tuple[str, ...] = ()
    label_range: tuple[float, float] | None = None
    hub: str | None = None
    label_field: str = "label"
    labels_from: str | None = None

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise SettingsError(f"task {self.name!r}: " + "; ".join(faults))

    @property
    def num_labels(self) -> int:
        """Number of outputs of the task's head: one a class, or a single one for regression.

        Example:
            >>> TASKS["mnli"].num_labels, TASKS["stsb"].num_labels
            (3, 1)
        """
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number and not a class.

        Example:
            >>> TASKS["stsb"].is_regression
            True
        """
        return self.label_names is None

    @property
    def metric_keys(self) -> tuple[str, ...]:
        """Keys of all the task's metrics, the headline one first.

        Example:
            >>> TASKS["mrpc"].metric_keys
            ('accuracy', 'f1')
        """
        return (self.metric, *self.other_metrics)

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row with its label as a class index or a number, and everything wrong with it.

        Example:
            >>> TASKS["sst2"].check_row({"sentence": "A fine film.", "label": "positive"})
            ({'sentence': 'A fine film.', 'label': 1}, [])
        """
        label, faults = check_row(row, self)
        return {**row, "label": label}, faults

    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return the texts of a row, without the white space around them.

        Example:
            >>> TASKS["sst2"].text_of({"sentence": "A fine film.", "label": 1})
            ('A fine film.',)
        """
        return tuple(row[field].strip() for field in self.text_fields)


def _faults(task: Task) -> list[str]:
    faults = []
    if not 1 <= len(task.text_fields) <= 2:
        faults.append(f"text_fields are {task.text_fields!r}; one or two are allowed")
    if task.label_field in task.text_fields:
        faults.append(f"text_fields has {task.label_field!r}, which holds what is to be predicted")
    names = task.label_names
    if names is not None and (len(names) < 2 or len(set(names)) < len(names)):
        faults.append(f"label_names are {names!r}; give two or more different names, or None for regression")
    if names is not None and task.label_range is not None:
        faults.append("label_range is for regression only; leave it out, or set label_names=None")
    if not task.validation_splits:
        faults.append("validation_splits is empty; give at least one name")
    return faults


_MNLI_SPLITS = ("validation_matched", "validation_mismatched")
_SENTENCES = ("sentence1", "sentence2")
_GLUE = "nyu-mll/glue"

# Field and label names are those of the hub's GLUE; the headline metrics are those of the tables in
# the LoRA paper (arXiv:2106.09685, Table 2), beside which results of this method are read.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), metric="matthews_correlation", hub=_GLUE),
        Task("sst2", ("sentence",), ("negative", "positive"), hub=_GLUE),
        Task("mrpc", _SENTENCES, ("not_equivalent", "equivalent"), other_metrics=("f1",), hub=_GLUE),
        Task(
            "stsb",
            _SENTENCES,
            None,
            metric="pearson",
            other_metrics=("spearmanr",),
            label_range=(0.0, 5.0),
            hub=_GLUE,
        ),
        Task(
            "qqp",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            other_metrics=("f1",),
            hub=_GLUE,
        ),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            validation_splits=_MNLI_SPLITS,
            hub=_GLUE,
        ),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment"), hub=_GLUE),
        Task("rte", _SENTENCES, ("entailment", "not_entailment"), hub=_GLUE),
        Task("wnli", _SENTENCES, ("not_entailment", "entailment"), hub=_GLUE),
        Task("rotten_tomatoes", ("text",), ("negative", "positive")),
    )
}

ALL_TASKS: dict[str, AnyTask] = {**TASKS, **TOKEN_TASKS, **GENERATION_TASKS}
"""Every task by name, of all kinds."""


def find_task(name: str) -> AnyTask:
    """Return the task called ``name``, or a user's own at ``package.module:NAME``.

    Args:
        name: A key of ``TASKS``, or a dotted path, a colon and the name of a ``Task`` or a task of another kind.

    Returns:
        The task.

    Raises:
        SettingsError: There is no such task, or the path leads to something else than a task.

    Example:
        >>> find_task("qnli").text_fields
        ('question', 'sentence')
    """
    task: object = find(ALL_TASKS, name, kind="task")
    if not isinstance(task, AnyTask):
        raise SettingsError(
            f"task {name!r} is a {type(task).__name__}; it must be a bilora.tasks.Task, or what has the members of "
            "bilora.tasks.task.AnyTask"
        )
    return task
