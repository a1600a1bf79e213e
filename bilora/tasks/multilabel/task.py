"""Classification of a text, or a pair of texts, that may have any number of labels."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from bilora.data.faults import Fault
from bilora.data.rows import Row, Rows
from bilora.errors import SHORT, DataError, SettingsError, first_ten
from bilora.metrics.multilabel import compute_multilabel, label_table
from bilora.metrics.resampled import label_score
from bilora.settings.lookup import did_you_mean
from bilora.settings.sections import build_section
from bilora.tasks.labels import MOST_CLASSES, LabelledFiles, are_lists, in_order, label_settings, listed
from bilora.tasks.scoring import answers_and_labels, in_row_order, ordered_loader, predict, short_chance
from bilora.tasks.task import Answers, AnyTask, BaseTask, EncodedRows, Evaluated, Inference
from bilora.tasks.text.batches import encode_texts
from bilora.tasks.text.rows import class_name, field_faults, text_faults


@dataclass(frozen=True)
class MultilabelSettings:
    """From which probability on a row gets a label.

    Args:
        thresholds: One for all labels, or some by name of the label; the others stay at 0.5.
    """

    thresholds: float | dict[str, float] = 0.5


@dataclass(frozen=True)
class MultilabelTask(BaseTask):
    """A task of texts with any number of labels: one output per label, binary cross entropy, averaged over labels."""

    # D1 and D2 are stratified by the rarest label of each row, see :func:`bilora.data.strata.make_strata`: there are
    # too many combinations of labels to stratify by those.
    task_types = ("multilabel_classification",)
    greater_is_better = True

    name: str
    text_fields: tuple[str, ...]
    label_names: tuple[str, ...]
    validation_splits: tuple[str, ...] = ("validation",)
    metric: str = "micro_f1"
    other_metrics: tuple[str, ...] = ("macro_f1", "subset_accuracy")
    hub: str | None = None
    label_field: str = "label"  # holds the list of a row's labels
    label_columns: tuple[str, ...] = ()  # of 0 and 1, in a file whose labels stand so
    label_separator: str | None = None  # between labels, in a file whose cells are text
    labels_from: str | None = None  # the file whose labels label_names are; labels are then read as names only
    thresholds: tuple[float, ...] | None = None  # smallest probability of each label that a row gets; None is 0.5

    def __post_init__(self) -> None:
        names, limits = self.label_names, self.thresholds or ()
        few = len(names) < 2 or len(set(names)) < len(names)
        wrong = bool(limits) and (len(limits) != len(names) or not all(0 < limit < 1 for limit in limits))
        self._refuse(
            *field_faults(self.text_fields, self.label_field),
            (few, f"label_names are {names!r}; give two or more different names"),
            (wrong, f"thresholds are {limits!r}; give one per label, between 0 and 1"),
        )

    @property
    def columns(self) -> LabelledFiles:
        """The columns of a file of rows."""
        return LabelledFiles("", self.text_fields, self.label_field, self.label_columns, self.label_separator)

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """Number and names of the labels; with this type transformers' models give the binary cross entropy."""
        return {"problem_type": "multi_label_classification", **label_settings(self.label_names)}

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Return the task with other thresholds."""
        if not settings:
            return self
        kind = f"task_settings of task {self.name!r}"
        limits = build_section(MultilabelSettings, settings, kind=kind).thresholds
        # build_section has made floats of whole numbers.
        if isinstance(limits, float):
            return dataclasses.replace(self, thresholds=(limits,) * len(self.label_names))
        if unknown := [name for name in limits if name not in self.label_names]:
            near = did_you_mean(unknown[0], self.label_names)
            names = first_ten(self.label_names)
            raise SettingsError(f"{kind}: thresholds names {unknown[0]!r}, which is no label; known: {names}.{near}")
        return dataclasses.replace(self, thresholds=tuple(limits.get(name, 0.5) for name in self.label_names))

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row with its labels as a set of indices, and everything wrong with it."""
        faults = [fault for name in self.text_fields for fault in text_faults(row, name)]
        labels, problem = self._indices(row.get(self.label_field))
        return {**row, "label": labels}, faults if problem is None else [*faults, Fault(self.label_field, problem)]

    def _indices(self, given: Any) -> tuple[frozenset[int], str | None]:
        if not isinstance(given, list | tuple):
            what = f"is {SHORT.repr(given)} ({type(given).__name__}); a list of labels is needed"
            return frozenset(), f"{what}, or --label-separator for a text of several"
        indices = set()
        for label in given:
            # type and not isinstance: True is an int, and no index.
            if type(label) is int and self.labels_from is None and 0 <= label < len(self.label_names):
                indices.add(label)
            elif (name := class_name(label)) in self.label_names:
                indices.add(self.label_names.index(name))
            else:
                which = f"no label of {self.labels_from}; those are" if self.labels_from else "no label; known"
                return frozenset(), f"has {SHORT.repr(label)}, which is {which}: {first_ten(self.label_names)}"
        return frozenset(indices), None

    def with_stand_in(self, row: Row) -> dict[str, Any]:
        """Return the row as one without labels."""
        return {**row, self.label_field: []}

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return the texts as token ids, with 1.0 for each label that a row has, and 0.0 for the others."""
        ids, notices = encode_texts(rows, tokenizer, self.text_fields, max_length=max_length)
        outputs = range(len(self.label_names))
        encoded = [
            {**tokens, "labels": [float(index in row["label"]) for index in outputs], "stratum": row["label"]}
            for tokens, row in zip(ids, rows, strict=True)
        ]
        return EncodedRows(rows, encoded, notices)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the binary cross entropy, averaged over rows and labels; weights are of the labels."""
        if weights is not None:
            weights = weights / weights.mean()  # so that the mean over all is sum_j w_j l_j / sum_j w_j
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits), weight=weights)

    def terms(self, labels: Tensor, weights: Tensor | None = None) -> float:
        """Return the number of rows: each has all labels, and so the same sum of weights."""
        return float(len(labels))

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Return the number of rows that have each label."""
        counts = Counter(label for row in rows for label in row["label"])
        return {name: counts[index] for index, name in enumerate(self.label_names)}

    def validate(self, inference: Inference, data: EncodedRows) -> Evaluated:
        """Return loss and metrics, the labels of every row, and the table by label."""
        logits, labels = predict(inference, ordered_loader(data.encoded, self.collator(inference.tokenizer)))
        # In float64, so that the mean does not depend on how the rows fall into batches.
        loss = float(self.loss(logits.double(), labels))
        given = self._given(logits)
        table = label_table(given, labels.int().numpy(), self.label_names)
        metrics = {"loss": loss, **compute_multilabel(self, given, labels.int().numpy())}
        chances = logits.double().sigmoid().tolist()
        ordered = in_row_order(list(zip(given, chances, strict=True)), data.encoded)
        predictions = [
            {
                **place,
                "label": self._named(encoded["labels"]),
                "prediction": self._named(got),
                "probabilities": dict(zip(self.label_names, map(short_chance, of_row), strict=True)),
            }
            for place, encoded, (got, of_row) in zip(self.places(data.rows), data.encoded, ordered, strict=True)
        ]
        nothing = (
            f"none of the {len(given):,} rows gets a label; the model tells nothing apart yet: train longer, take "
            "another learning rate, or lower task_settings.thresholds"
        )
        # Where no row has a label, to give none is right.
        notices = (nothing,) if labels.any() and not given.any() else ()
        files = {"labels.json": json.dumps(table, indent=2, ensure_ascii=False) + "\n"}
        return Evaluated(metrics, predictions, files, notices, tuple(table))

    def _given(self, logits: Tensor) -> numpy.ndarray[Any, Any]:
        # No threshold is tuned, so that the scores are of rows that nothing was chosen by.
        limits = torch.tensor(self.thresholds or (0.5,) * len(self.label_names), dtype=torch.float64)
        given: numpy.ndarray[Any, Any] = (logits.double().sigmoid() >= limits).numpy()
        return given  # (rows, labels)

    def _named(self, marks: Iterable[Any]) -> list[str]:
        return list(itertools.compress(self.label_names, marks))

    def answers(self, inference: Inference, rows: Rows, *, max_length: int) -> Answers:
        """Return ``prediction``, the names of the labels, and ``probabilities`` of all by name."""
        data = self.encode(rows, inference.tokenizer, max_length=max_length)
        logits, _ = predict(inference, ordered_loader(data.encoded, self.collator(inference.tokenizer)))
        pairs = zip(self._given(logits), logits.double().sigmoid().tolist(), strict=True)
        answers = [
            {"prediction": self._named(got), "probabilities": dict(zip(self.label_names, chances, strict=True))}
            for got, chances in pairs
        ]
        return in_row_order(answers, data.encoded), data.notices

    def rescored(self, predictions: Sequence[Mapping[str, Any]]) -> Callable[[numpy.ndarray[Any, Any]], float]:
        """Return the headline metric as a function of row numbers."""
        marks = answers_and_labels(predictions, lambda names: [int(name in names) for name in self.label_names])
        return label_score(self.metric, *marks)

    @classmethod
    def guess(cls, rows: Sequence[Row], files: LabelledFiles) -> str | None:
        """Return ``multilabel_classification`` where labels are lists and texts are not."""
        lists = are_lists(rows, files.label_field) and not are_lists(rows, files.text_columns[0])
        return "multilabel_classification" if lists else None

    @classmethod
    def from_rows(cls, rows: Sequence[Row], files: LabelledFiles, task_type: str) -> AnyTask:
        """Return a task whose labels are those of the rows, or the columns of the file."""
        names = {name for label in listed(rows, files) if (name := class_name(label)) is not None}
        label_names = files.label_columns or tuple(in_order(names))
        if len(label_names) < 2:
            raise DataError(
                f"{files.train}: the labels in {files.label_field!r} are {', '.join(label_names) or 'no lists'}; "
                "multilabel classification needs two different ones, as a list per row, as a text with "
                "--label-separator, or as columns of 0 and 1"
            )
        if len(label_names) > MOST_CLASSES:
            raise DataError(
                f"{files.train}: {len(label_names):,} different labels in {files.label_field!r} are too many to learn, "
                f"{MOST_CLASSES:,} at most; name another --label-column"
            )
        columns = {name: getattr(files, name) for name in ("label_field", "label_columns", "label_separator")}
        return cls(files.name, files.text_columns, label_names, labels_from=files.train, **columns)
