"""What differs between kinds of task, as one object that a run is handed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from bilora.data.loaders import Collate
from bilora.data.rows import Rows
from bilora.metrics.monitor import Monitor
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.tasks.task import AnyTask

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class EncodedRows:
    """Checked rows, and the same as token ids.

    Args:
        rows: The rows, with their origins.
        encoded: What the collator takes, one mapping an example; ``labels`` that is an int or a float stratifies
            the split into D1 and D2.
        notices: What a reader of the results must know, one sentence each, such as the number of rows cut.
    """

    rows: Rows
    encoded: list[dict[str, Any]]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluated:
    """What came of an evaluation.

    Args:
        metrics: ``loss`` and the task's metrics; None where one is undefined.
        predictions: What the model gave for each row, in the order of the rows, ready for strict JSON; None where
            they are not kept.
        files: Text of other files for the run's folder, by name.
        notices: What is wrong with the answers though the metrics have values, one sentence each.
    """

    metrics: Metrics
    predictions: list[dict[str, Any]] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def warn(self, name: str) -> None:
        """Warn of each notice, with the name of the set before it."""
        for each in self.notices:
            warnings.warn(f"{name}: {each}", RuntimeWarning, stacklevel=3)


class TaskKind(Protocol):
    """How the tasks of a kind are trained and scored. It is made for one task, and holds no model.

    A kind is a class in a file of its own, called as ``Kind(task, settings)``, and a row of
    :data:`bilora.tasks.kinds.KINDS`.
    """

    @property
    def task(self) -> AnyTask:
        """The task that the kind was made for."""

    @property
    def task_type(self) -> str:
        """PEFT's name for the kind (``"SEQ_CLS"``); by it PEFT knows the head, which it trains and saves."""

    @property
    def model_class(self) -> Any:
        """The ``AutoModelFor...`` of transformers that loads the model."""

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """What the model's config is told about the task: number and names of labels."""

    @property
    def tokenizer_settings(self) -> Mapping[str, Any]:
        """What the tokenizer is told: side to pad on, spaces before words."""

    @property
    def watched(self) -> Monitor:
        """The metric of :meth:`validate` that early stopping and keep-the-best look at."""

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return rows as token ids, with labels, and not padded."""

    def collate(self, tokenizer: Any) -> Collate:
        """Return what makes a batch, with ``labels``, of some of the encoded rows."""

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Return how often each class is among the labels, by name in the order of the class indices.

        Raises:
            SettingsError: Tasks of this kind have no classes.
        """

    def validate(
        self,
        model: nn.Module,
        data: EncodedRows,
        tokenizer: Any,
        *,
        autocast_dtype: torch.dtype | None,
        processes: Processes = ONE_PROCESS,
    ) -> Metrics:
        """Return ``loss`` and what else is cheap enough to be taken often in a run; training rows get it too."""

    def evaluate(
        self,
        model: nn.Module,
        data: EncodedRows,
        tokenizer: Any,
        *,
        autocast_dtype: torch.dtype | None,
        validated: Metrics | None,
        processes: Processes = ONE_PROCESS,
    ) -> Evaluated:
        """Return all metrics, ``loss`` and the task's headline metric among them, at the end of a run.

        Args:
            model: The trained model; it is left in the mode it was in.
            data: The rows of one set.
            tokenizer: The model's tokenizer.
            autocast_dtype: The autocast type of the forward pass; None for none.
            validated: What :meth:`validate` gave for these parameters and rows; None if it was not asked.
            processes: They share the rows; each returns the numbers of the whole set.
        """
