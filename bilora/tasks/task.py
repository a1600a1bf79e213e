"""What a kind of task is: one protocol, and the answers that most kinds give to it."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.faults import Fault
from bilora.data.loaders import Collate
from bilora.data.records import read_records
from bilora.data.rows import Row, Rows, check_records
from bilora.data.sets import TaskRows
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.tasks.sources import load_sets

if TYPE_CHECKING:
    from bilora.tasks.labels import LabelledFiles

Metrics = dict[str, float | None]

IGNORED = -100
"""The label of a token that enters no loss, as torch's cross entropy has it."""

Answers = tuple[list[dict[str, Any]], tuple[str, ...]]
"""One JSON object per row, in the order of the rows, and what a reader of them must know."""


@dataclass(frozen=True)
class HubNames:
    """What PEFT, the hub and transformers call a kind of task."""

    peft: str  # "SEQ_CLS": by it PEFT knows the head, which it trains and saves
    pipeline: str  # the hub's tag, "text-classification"
    auto_class: str  # the class of transformers that loads the model
    has_head: bool = True  # whether the model gets a head with one output per label


@dataclass(frozen=True)
class Inference:
    """A model with what it needs to answer: every evaluation is handed this one bundle."""

    model: nn.Module  # whoever calls it leaves it in the mode it was in
    tokenizer: Any
    autocast_dtype: torch.dtype | None = None
    processes: Processes = ONE_PROCESS  # they share the rows; each gets the numbers of the whole set


@dataclass(frozen=True)
class EncodedRows:
    """Checked rows, and the same as token ids: one mapping per example, as the collator takes them.

    A command stratifies D1 and D2 by the rows' labels, where they are numbers or sets of names;
    :func:`~bilora.engines.training.fit.fit`, which has no rows, by ``stratum`` where an example has one, else by
    ``labels`` that is an int or a float.
    """

    rows: Rows
    encoded: list[dict[str, Any]]
    notices: tuple[str, ...] = ()  # a sentence each for the reader of the results, such as the number of rows cut


@dataclass(frozen=True)
class Evaluated:
    """The results of an evaluation."""

    metrics: Metrics  # ``loss`` and the task's metrics; None where one is undefined
    predictions: list[dict[str, Any]] | None = None  # per row, in the order of the rows, ready for strict JSON
    files: Mapping[str, str] = field(default_factory=dict)  # text of other files for the run's folder, by name
    notices: tuple[str, ...] = ()  # what is wrong with the answers though the metrics have values
    table: tuple[Mapping[str, Any], ...] = ()  # one row per class, with the same columns each

    def warn(self, name: str) -> None:
        """Warn of each notice, with the name of the set before it."""
        for notice in self.notices:
            warnings.warn(f"{name}: {notice}", RuntimeWarning, stacklevel=3)


@runtime_checkable
class AnyTask(Protocol):
    """A task: what its rows hold, how a model learns from them, and how its answers are scored.

    A kind of task is one frozen dataclass in a folder of its own, and one row of
    :data:`bilora.tasks.kinds.TASK_KINDS`; a user's own kind is named as ``package.module:NAME`` instead. Nothing
    outside asks which kind a task is of. :class:`BaseTask` answers most of this for rows with text columns and a
    label. A task holds no model and is never changed: a run hands it an :class:`Inference`.
    """

    @property
    def name(self) -> str:
        """Folder name under a data directory, configuration name on the hub, and name in the results."""

    @property
    def metric(self) -> str:
        """Key of the headline metric, the one used as score."""

    @property
    def greater_is_better(self) -> bool:
        """Whether a larger value of ``metric`` is better."""

    @property
    def watched(self) -> Monitor:
        """The metric of :meth:`validate` that early stopping and keep-the-best look at."""

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """Names of the validation sets; the first gives the score."""

    @property
    def upper_split(self) -> str | None:
        """Name of the set that is D2; None where D2 is drawn from the training rows."""

    @property
    def hub(self) -> str | None:
        """Id of the hub data set that holds the task's rows; None if it is on no hub."""

    @property
    def hub_config(self) -> str | None:
        """The configuration of that data set; None for its only one."""

    @property
    def hub_names(self) -> HubNames:
        """What PEFT, the hub and transformers call the kind."""

    @property
    def default_model(self) -> str | None:
        """The model of a config that names none; None is the embedded MiniLM."""

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """What the model's config holds of the task, such as ``num_labels`` and the names of the labels."""

    @property
    def tokenizer_settings(self) -> Mapping[str, Any]:
        """What the tokenizer is loaded with, such as spaces before words."""

    def with_settings(self, settings: Mapping[str, Any]) -> AnyTask:
        """Return the task with the settings of the section ``task_settings`` of a config.

        Raises:
            SettingsError: A setting is unknown or out of range.
        """

    def load_rows(self, data_dir: str | os.PathLike[str] | None) -> TaskRows:
        """Return the checked rows of the task's sets, from ``data_dir/<name>/``, or from the hub where that is None.

        Raises:
            DataError: A file or row cannot be used; names file, line and field.
        """

    def read_rows(self, path: str, *, labelled: bool) -> Rows:
        """Return the checked rows of one file.

        Args:
            path: The file, with the columns of the training file.
            labelled: Whether the rows have labels; if not, whatever stands in their place is not looked at.

        Raises:
            DataError: The file or a row cannot be used; names file, line and field.
        """

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row as the library uses it, and everything that is wrong with it.

        The row returned always has ``label``: a class index (int), a number (float) or a set of class indices
        (frozenset), by which rows are stratified, or something else (None, tags), by which they are not.
        """

    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return what of a checked row must not stand in training and in validation."""

    def examples_of(self, row: Mapping[str, Any]) -> int:
        """Return how many examples :meth:`encode` makes of a checked row."""

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return rows as token ids, with ``labels``, cut to ``max_length`` tokens and not padded."""

    def collator(self, tokenizer: Any) -> Collate:
        """Return a callable that makes a batch, with ``labels``, of some of the encoded rows."""

    def load_model(self, place: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
        """Return the model of a folder or hub id, and transformers' ``loading_info``.

        The model's output has ``.logits`` and, called with ``labels``, the loss that is trained on.

        Args:
            place: Folder or hub id.
            options: For ``from_pretrained``, such as ``local_files_only``.
        """

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of a batch, the same that the model gives, or weighted by class.

        Args:
            logits: Of the model.
            labels: Of the collator.
            weights: ``(classes,)``; None weighs all alike.
        """

    def terms(self, labels: Tensor, weights: Tensor | None = None) -> float:
        """Return how many terms :meth:`loss` of these labels is the mean of; with weights, the sum of their weights.

        By it a step of several batches is that of one batch of them all.
        """

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Return how often each class is among the labels, by name in the order of the class indices.

        Raises:
            SettingsError: Tasks of this kind have no classes.
        """

    def validate(self, inference: Inference, data: EncodedRows) -> Evaluated:
        """Return ``loss`` and what else is cheap enough to be taken often in a run; training rows get it too."""

    def evaluate(self, inference: Inference, data: EncodedRows, validated: Evaluated | None = None) -> Evaluated:
        """Return all metrics, ``loss`` and the headline metric among them, as at the end of a run.

        Args:
            inference: The trained model.
            data: The rows of one set.
            validated: What :meth:`validate` gave for these parameters and rows; None if it was not asked.
        """

    def answers(self, inference: Inference, rows: Rows, *, max_length: int) -> Answers:
        """Return what ``bilora predict`` writes of rows without labels, and notices."""

    def rescored(self, predictions: Sequence[Mapping[str, Any]]) -> Callable[[Any], float] | None:
        """Return the headline metric as a function of row numbers (with repetitions), for resampling.

        Args:
            predictions: Those of an :class:`Evaluated`; None is returned where they do not give the metric.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return what the file beside an adapter says of the task, as JSON."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AnyTask:
        """Return the task that :meth:`to_dict` wrote.

        Raises:
            ValueError, TypeError, KeyError: The fields are not those of a task.
        """


class TaskKind(AnyTask, Protocol):
    """The class of a kind, as a row of :data:`bilora.tasks.kinds.TASK_KINDS` has it: an ``AnyTask``, and how one is
    made of a file of labelled rows."""

    task_types: ClassVar[tuple[str, ...]]
    """Names for ``--task-type``; empty for a kind whose tasks are never made of a file of labels."""

    hub_names: ClassVar[HubNames]
    """What PEFT, the hub and transformers call the kind."""

    @classmethod
    def guess(cls, rows: Sequence[Row], files: LabelledFiles) -> str | None:
        """Return the task type of this kind that the labels of the rows speak for, or None."""

    @classmethod
    def from_rows(cls, rows: Sequence[Row], files: LabelledFiles, task_type: str) -> AnyTask:
        """Return the task that the rows of a training file make.

        Args:
            rows: Those that could be read; ``files.label_field`` holds the label of each that has one.
            files: Says which columns are read.
            task_type: One of ``task_types``, or the ``package.module:NAME`` of this class.

        Raises:
            DataError: The labels are not of this kind.
        """


# For a type checker alone: at run time, the protocol's properties would be taken for defaults of the dataclass fields.
if TYPE_CHECKING:
    _Protocol = AnyTask
else:
    _Protocol = object


class BaseTask(_Protocol):
    """The answers of most kinds: rows with text columns and a label, a head whose loss is the cross entropy.

    A kind inherits it as a frozen dataclass, with ``name``, ``metric``, ``greater_is_better``, ``validation_splits``
    and ``hub`` among its fields or properties, and overrides what is different.
    """

    task_types: ClassVar[tuple[str, ...]] = ()
    upper_split: ClassVar[str | None] = None
    default_model: ClassVar[str | None] = None
    tokenizer_settings: ClassVar[Mapping[str, Any]] = {}
    hub_names: ClassVar[HubNames] = HubNames("SEQ_CLS", "text-classification", "AutoModelForSequenceClassification")

    @property
    def hub_config(self) -> str | None:
        """Configuration of the hub data set: the task's name."""
        return self.name

    def _refuse(self, *faults: tuple[bool, str]) -> None:
        """Raise one error with the texts of all the faults that the task's fields have."""
        faults = (*faults, (not self.validation_splits, "validation_splits is empty; give at least one name"))
        if texts := [text for wrong, text in faults if wrong]:
            raise SettingsError(f"task {self.name!r}: " + "; ".join(texts))

    @property
    def other_metrics(self) -> tuple[str, ...]:
        """Keys of the metrics reported beside the headline one."""
        return ()

    @property
    def metric_keys(self) -> tuple[str, ...]:
        """Keys of all the task's metrics, the headline one first."""
        return (self.metric, *self.other_metrics)

    @property
    def watched(self) -> Monitor:
        """The headline metric."""
        return Monitor(self.metric, greater_is_better=self.greater_is_better)

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Return the task as it is; it has no settings."""
        if settings:
            first = next(iter(settings))
            raise SettingsError(f"task_settings of task {self.name!r} has no setting {first!r}; known: none.")
        return self

    def load_rows(self, data_dir: str | os.PathLike[str] | None) -> TaskRows:
        """Return the rows of JSON lines in a folder, or of the hub."""
        return load_sets(self, data_dir)

    @property
    def columns(self) -> LabelledFiles:
        """The columns of a file of rows, for :meth:`read_rows`."""
        raise SettingsError(f"task {self.name!r} does not say which columns it reads")

    def with_stand_in(self, row: Row) -> dict[str, Any]:
        """Return a row whose label is one that is allowed, in place of whatever is there."""
        raise SettingsError(f"task {self.name!r} is not predicted row by row")

    def read_rows(self, path: str, *, labelled: bool) -> Rows:
        """Return the rows of a file by the task's columns."""
        if labelled:
            records = self.columns.read(path)
        else:
            read = read_records(path)
            records = [(line, self.with_stand_in(row) if row else row, faults) for line, row, faults in read]
        return check_records(records, self, source=path, split="evaluation" if labelled else "prediction")

    def examples_of(self, row: Mapping[str, Any]) -> int:
        """Return one."""
        return 1

    def load_model(self, place: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
        """Return the model that the auto class of transformers loads, with a head of the task's size."""
        auto_class: Any = getattr(transformers, self.hub_names.auto_class)
        model, loading = auto_class.from_pretrained(
            place,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a head for another task gives way to a new one
            **options,
            **self.model_settings,
        )
        return model, loading

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the cross entropy over the labels that are not -100."""
        return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight=weights)

    def terms(self, labels: Tensor, weights: Tensor | None = None) -> float:
        """Return the number of labels that are not -100, or the sum of their weights."""
        counted = labels[labels != IGNORED]
        return float(len(counted) if weights is None else weights.to(labels.device)[counted].sum())

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Raise: there are no classes."""
        raise SettingsError(f"task {self.name!r} has no classes to count")

    def evaluate(self, inference: Inference, data: EncodedRows, validated: Evaluated | None = None) -> Evaluated:
        """Return what a validation gives, taken anew only where there is none."""
        return validated or self.validate(inference, data)

    def answers(self, inference: Inference, rows: Rows, *, max_length: int) -> Answers:
        """Raise: the kind does not say what it answers."""
        raise SettingsError(f"task {self.name!r} is not predicted row by row")

    def rescored(self, predictions: Sequence[Mapping[str, Any]]) -> Callable[[numpy.ndarray[Any, Any]], float] | None:
        """Return None: the score is no function of single rows."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the dataclass."""
        assert dataclasses.is_dataclass(self)  # every kind is one
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the task of these fields."""
        # JSON knows no tuples; every sequence among the fields is one.
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    @classmethod
    def guess(cls, rows: Sequence[Row], files: LabelledFiles) -> str | None:
        """Return None: tasks of this kind are asked for by name."""
        return None

    @classmethod
    def from_rows(cls, rows: Sequence[Row], files: LabelledFiles, task_type: str) -> AnyTask:
        """Raise: tasks of this kind are not made of a file of labels."""
        raise SettingsError(f"task_type {task_type!r} is not made of a file of labelled rows")
