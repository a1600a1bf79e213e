"""The table of the kinds of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bilora.data.rows import Row
from bilora.data.sets import TaskRows
from bilora.settings.lookup import find
from bilora.settings.sections import build_section
from bilora.tasks.generation.kind import GenerationKind, GenerationSettings
from bilora.tasks.kind import TaskKind
from bilora.tasks.sources import load_task_rows
from bilora.tasks.task import AnyTask
from bilora.tasks.text.kind import NoSettings, TextKind
from bilora.tasks.tokens.kind import TokenKind


@dataclass(frozen=True)
class KindRow:
    """How a kind is made.

    Args:
        build: Called as ``build(task, settings)``, returns the kind for that task.
        settings: A frozen dataclass of the kind's own settings, the section ``task_settings`` of a config.
        load: Called as ``load(kind, data_dir)``, returns the rows of the kind's task.
        examples: Called with a row, returns how many examples ``encode`` makes of it.
        model: The model of a config that names none; None is the embedded MiniLM.
    """

    build: Callable[[Any, Any], TaskKind]
    settings: Callable[..., Any] = NoSettings
    load: Callable[[Any, str | None], TaskRows] = lambda kind, data_dir: load_task_rows(kind.task, data_dir=data_dir)
    examples: Callable[[Row], int] = lambda row: 1
    model: str | None = None


KINDS: dict[str, KindRow] = {
    "text": KindRow(TextKind),
    "tokens": KindRow(TokenKind),
    "generation": KindRow(
        GenerationKind,
        GenerationSettings,
        GenerationKind.load_rows,
        examples=lambda row: len(row["references"]),
        model="smollm2",
    ),
}
"""Every kind by the name that tasks give as their ``kind``. A new one is a file with a class, and a row here."""


def find_kind(task: AnyTask) -> KindRow:
    """Return how the kind of ``task`` is made.

    Raises:
        SettingsError: There is no such kind.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> find_kind(TASKS["mnli"]).build is TextKind
        True
    """
    return find(KINDS, task.kind, kind="kind of task")


def build_kind(task: AnyTask, settings: Mapping[str, Any] | None = None) -> TaskKind:
    """Return the kind of ``task``, made for it.

    Args:
        task: Its ``kind`` is a key of ``KINDS``, or ``package.module:NAME`` of a ``KindRow``.
        settings: The kind's own settings, as they come from YAML or a command line.

    Raises:
        SettingsError: The kind or a setting is unknown.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> build_kind(TASKS["mnli"]).task_type
        'SEQ_CLS'
        >>> build_kind(TASKS["mnli"], {"beams": 4})
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: task_settings of task 'mnli' has no setting 'beams'; known: none.
    """
    row = find_kind(task)
    return row.build(task, build_section(row.settings, settings or {}, kind=f"task_settings of task {task.name!r}"))
