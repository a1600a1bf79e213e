"""What a kind of task is: one protocol with the answers that most kinds give to it."""

from __future__ import annotations

import dataclasses
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.faults import Fault
from bilora.data.loaders import Collate
from bilora.data.records import read_records
from bilora.data.rows import Row, Rows, check_record, check_records
from bilora.data.sets import TaskRows
from bilora.data.tables import Record
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.settings.sections import build_section
from bilora.tasks.labels import LabelledFiles, refuse_wrong
from bilora.tasks.sources import load_sets
from bilora.tasks.targets import TargetScale
from bilora.tasks.text.batches import Collator

Metrics = dict[str, float | None]

# The label of a token that enters no loss: the default ``ignore_index`` of torch's cross entropy, which
# transformers' models rely on too.
IGNORED = -100

# One JSON object per row, in the order of the rows, and what a reader of them must know.
Answers = tuple[list[dict[str, Any]], tuple[str, ...]]


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
    """Checked rows, and the same as token ids: one mapping per example, as the collator takes them."""

    # A command stratifies D1 and D2 by the rows' labels, where they are numbers or sets of names;
    # :func:`~bilora.engines.training.fit.fit`, which has no rows, by ``stratum`` where an example has one, else by
    # ``labels`` that is an int or a float.
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
            # Level 3 is the line that asked for the evaluation, not the one that warns, so that each place is told
            # once.
            warnings.warn(f"{name}: {notice}", RuntimeWarning, stacklevel=3)


# Looked at when a task is found by its name: a task of a user need not inherit anything.
@runtime_checkable
class AnyTask(Protocol):
    """A task: what its rows hold, how a model learns from them, and how its answers are scored.

    A kind of task is one frozen dataclass in a folder of its own, and one row of
    :data:`bilora.tasks.kinds.TASK_KINDS`; a user's own kind is named as ``package.module:NAME`` instead. Nothing
    outside asks which kind a task is of. A task holds no model and is never changed: a run hands it an
    :class:`Inference`. What has a body or a value here is the answer of a class that inherits it and has no other.
    """

    # Plain names and no properties: a dataclass that inherits a property takes it for the default of its own field.
    name: str  # folder name under a data directory, configuration name on the hub, and name in the results
    metric: str  # key of the headline metric, the one used as score
    greater_is_better: bool  # whether a larger value of ``metric`` is better
    validation_splits: tuple[str, ...]  # names of the validation sets; the first gives the score
    hub: str | None  # id of the hub data set that holds the task's rows; None if it is on no hub
    upper_split: str | None = None  # name of the set that is D2; None where D2 is drawn from the training rows
    default_model: str | None = None  # the model of a config that names none; None is the embedded MiniLM
    tokenizer_settings: Mapping[str, Any] = {}  # what the tokenizer is loaded with, such as spaces before words
    # What PEFT, the hub and transformers call the kind; read off the class too, before there is a task.
    hub_names: HubNames = HubNames("SEQ_CLS", "text-classification", "AutoModelForSequenceClassification")

    @property
    def hub_config(self) -> str | None:
        """The configuration of that data set, here the task's name; None for its only one."""
        return self.name

    @property
    def watched(self) -> Monitor:
        """The metric of :meth:`validate` that early stopping and keep-the-best look at, here the headline metric."""
        return Monitor(self.metric, greater_is_better=self.greater_is_better)

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """What the model's config holds of the task, such as ``num_labels`` and the names of the labels."""
        return {}

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Return the task with the settings of the section ``task_settings`` of a config.

        Raises:
            SettingsError: A setting is unknown or out of range.
        """
        if settings:
            first = next(iter(settings))
            raise SettingsError(f"task_settings of task {self.name!r} has no setting {first!r}; known: none.")
        return self

    def load_rows(self, data_dir: str | os.PathLike[str] | None) -> TaskRows:
        """Return the checked rows of the task's sets, from ``data_dir/<name>/``, or from the hub where that is None.

        Raises:
            DataError: A file or row cannot be used; names file, line and field.
        """
        return load_sets(self, data_dir)

    # Abstract members stop a kind that forgets one when its first task is made, and not in the middle of a run.
    @abstractmethod
    def read_rows(self, path: str, *, labelled: bool) -> Rows:
        """Return the checked rows of one file.

        Args:
            path: The file, with the columns of the training file.
            labelled: Whether the rows have labels; if not, whatever stands in their place is not looked at.

        Raises:
            DataError: The file or a row cannot be used; names file, line and field.
        """

    @abstractmethod
    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row as the library uses it, and everything that is wrong with it.

        The row returned always has ``label``: a class index (int), a number (float) or a set of class indices
        (frozenset), by which rows are stratified, or something else (None, tags), by which they are not.
        """

    @abstractmethod
    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return what of a checked row must not stand in training and in validation."""

    def examples_of(self, row: Mapping[str, Any]) -> int:
        """Return how many examples :meth:`encode` makes of a checked row."""
        return 1

    @abstractmethod
    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return rows as token ids, with ``labels``, cut to ``max_length`` tokens and not padded."""

    @abstractmethod
    def collator(self, tokenizer: Any) -> Collate:
        """Return a callable that makes a batch, with ``labels``, of some of the encoded rows."""

    def load_model(self, place: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
        """Return the model of a folder or hub id, and transformers' ``loading_info``.

        The model's output has ``.logits`` and, called with ``labels``, the loss that is trained on.

        Args:
            place: Folder or hub id.
            options: For ``from_pretrained``, such as ``local_files_only``.
        """
        auto_class: Any = getattr(transformers, self.hub_names.auto_class)
        # A head of another size is of another task, and gives way to a new one.
        wanted = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, loading = auto_class.from_pretrained(place, **wanted, **options, **self.model_settings)
        return model, loading

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of a batch, the same that the model gives, or weighted by class.

        Args:
            logits: Of the model.
            labels: Of the collator; those that are -100 do not enter.
            weights: ``(classes,)``; None weighs all alike.
        """
        # One loss for rows and for tokens: logits are (..., classes), and labels (...).
        return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight=weights)

    def terms(self, labels: Tensor, weights: Tensor | None = None) -> float:
        """Return how many terms :meth:`loss` of these labels is the mean of; with weights, the sum of their weights.

        By it a step of several batches is that of one batch of them all.
        """
        counted = labels[labels != IGNORED]
        return float(len(counted) if weights is None else weights.to(labels.device)[counted].sum())

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Return how often each class is among the labels, by name in the order of the class indices.

        Raises:
            SettingsError: Tasks of this kind have no classes.
        """
        raise SettingsError(f"task {self.name!r} has no classes to count")

    def target_scale(self, rows: Rows) -> TargetScale | None:
        """Return mean and deviation of the rows' labels, by which a model is trained; None where they are no numbers.

        Raises:
            DataError: The labels are numbers that nothing can be learned from.
        """
        return None

    @abstractmethod
    def validate(self, inference: Inference, data: EncodedRows) -> Evaluated:
        """Return ``loss`` and what else is cheap enough to be taken often in a run; training rows get it too."""

    def evaluate(self, inference: Inference, data: EncodedRows, validated: Evaluated | None = None) -> Evaluated:
        """Return all metrics, ``loss`` and the headline metric among them, as at the end of a run.

        Args:
            inference: The trained model.
            data: The rows of one set.
            validated: What :meth:`validate` gave for these parameters and rows; None if it was not asked.
        """
        # A run has validated the parameters that it ends with: nothing is predicted twice.
        return validated or self.validate(inference, data)

    def answers(self, inference: Inference, rows: Rows, *, max_length: int) -> Answers:
        """Return what ``bilora predict`` writes of rows without labels, and notices."""
        raise SettingsError(f"task {self.name!r} is not predicted row by row")

    def rescored(self, predictions: Sequence[Mapping[str, Any]]) -> Callable[[Any], float] | None:
        """Return the headline metric as a function of row numbers (with repetitions), for resampling.

        Args:
            predictions: Those of an :class:`Evaluated`; None is returned where they do not give the metric.
        """
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return what the file beside an adapter says of the task, as JSON."""
        # Every kind is a dataclass, which a protocol cannot say.
        assert dataclasses.is_dataclass(self)
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`to_dict` wrote.

        Raises:
            ValueError, TypeError, KeyError: The fields are not those of a task.
        """
        # JSON knows no tuples, which the types of the fields tell from lists.
        return build_section(cls, fields, kind="task")


class TaskKind(AnyTask, Protocol):
    """The class of a kind, as a row of :data:`bilora.tasks.kinds.TASK_KINDS` has it: an ``AnyTask``, and how one is
    made of a file of labelled rows."""

    # Names for ``--task-type``; empty for a kind whose tasks are never made of a file of labels.
    task_types: tuple[str, ...] = ()

    @classmethod
    def guess(cls, rows: Sequence[Row], files: LabelledFiles) -> str | None:
        """Return the task type of this kind that the labels of the rows speak for, or None."""
        return None

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
        raise SettingsError(f"task_type {task_type!r} is not made of a file of labelled rows")


class BaseTask(TaskKind):
    """The answers of most kinds: rows with text columns and a label, a head whose loss is the cross entropy.

    A kind inherits it as a frozen dataclass, with ``name``, ``metric``, ``greater_is_better``, ``validation_splits``
    and ``hub`` among its fields or properties, and overrides what is different.
    """

    other_metrics: tuple[str, ...] = ()  # keys of the metrics reported beside the headline one
    text_fields: tuple[str, ...]  # the columns of a checked row that hold its texts, where it has any

    @property
    def metric_keys(self) -> tuple[str, ...]:
        """Keys of all the task's metrics, the headline one first."""
        return (self.metric, *self.other_metrics)

    @property
    def columns(self) -> LabelledFiles:
        """The columns of a file of rows, for :meth:`read_rows`."""
        raise SettingsError(f"task {self.name!r} does not say which columns it reads")

    def _refuse(self, *faults: tuple[bool, str]) -> None:
        # A task without a validation set has no score, whatever its kind.
        empty = not self.validation_splits, "validation_splits is empty; give at least one name"
        refuse_wrong(f"task {self.name!r}", *faults, empty)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns of a file that hold the text; none where a task finds its input by itself."""
        return () if type(self).columns is BaseTask.columns else self.columns.text_columns

    def own_records(self, path: str) -> list[Record] | None:
        """Return the records of a file in a form of this kind of task alone, None where the file has another form."""
        return None

    def with_stand_in(self, row: Row) -> dict[str, Any]:
        """Return a row whose label is one that is allowed, in place of whatever is there."""
        raise SettingsError(f"task {self.name!r} is not predicted row by row")

    def read_rows(self, path: str, *, labelled: bool) -> Rows:
        """Return the rows of a file by the task's columns."""
        if labelled:
            return check_records(self.columns.read(path), self, source=path, split="evaluation")
        return self.unlabelled_rows(read_records(path), source=path)

    def check_unlabelled(self, record: Record) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row as the task uses it, whatever stands in the place of its label, and what is wrong with it."""
        line, row, faults = record
        return check_record((line, self.with_stand_in(row) if row else row, faults), self)

    def unlabelled_rows(self, records: Sequence[Record], *, source: str) -> Rows:
        """Return records as checked rows, whatever stands in the place of their labels."""
        # The checks ask for a label. What came with a fault has no row that could get one, and is refused anyway.
        filled = [(line, self.with_stand_in(row) if row else row, faults) for line, row, faults in records]
        return check_records(filled, self, source=source, split="prediction")

    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return the texts of a row, without the white space around them."""
        # A copy of a row with a space more is the same text: it must not be trained on and scored.
        return tuple([row[name].strip() for name in self.text_fields])

    def shown_text(self, row: Mapping[str, Any]) -> str:
        """Return the texts of a row as one, for people."""
        return " / ".join(str(row[name]) for name in self.text_columns)

    def places(self, rows: Rows) -> list[dict[str, Any]]:
        """Return what the predictions say of each row itself: its id, its line in the file, and its text."""
        return [
            {"id": row_id, "line": line, "text": self.shown_text(row)}
            for row_id, line, row in zip(rows.ids, rows.lines, rows, strict=True)
        ]

    def collator(self, tokenizer: Any) -> Collate:
        """Return a collator that pads to the longest row."""
        return Collator(tokenizer)
