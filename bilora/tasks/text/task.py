"""Classification of, and regression on, one text or a pair of texts."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from torch import Tensor
from torch.nn import functional

from bilora.data.faults import Fault
from bilora.data.rows import Row, Rows
from bilora.errors import SHORT, DataError, SettingsError
from bilora.metrics.classes import MEASURES, compute_metrics
from bilora.metrics.resampled import class_score
from bilora.tasks.labels import MOST_CLASSES, LabelledFiles, are_lists, given_values, in_order, label_settings
from bilora.tasks.scoring import (
    answers_and_labels,
    by_rows,
    in_row_order,
    one_class,
    ordered_loader,
    predict,
    predicted_batches,
    short_chance,
)
from bilora.tasks.targets import TargetScale
from bilora.tasks.task import Answers, AnyTask, BaseTask, EncodedRows, Evaluated, Inference
from bilora.tasks.text.batches import encode_texts
from bilora.tasks.text.rows import check_row, class_name, field_faults

# More different whole numbers than these are taken for quantities, not for classes.
MOST_NUMBERED_CLASSES = 20


@dataclass(frozen=True)
class TextTask(BaseTask):
    """A text classification or regression task; ``bilora.tasks`` exports it as ``Task``.

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
        SettingsError: The settings do not fit each other; all faults are named together.

    Example:
        >>> task = TextTask("toy", ("text",), ("no", "yes"), metric="accuracy")
        >>> task.num_labels, task.is_regression
        (2, False)
    """

    task_types = ("classification", "regression")

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
        names = self.label_names
        few = names is not None and (len(names) < 2 or len(set(names)) < len(names))
        ranged = names is not None and self.label_range is not None
        self._refuse(
            *field_faults(self.text_fields, self.label_field),
            (few, f"label_names are {names!r}; give two or more different names, or None for regression"),
            (ranged, "label_range is for regression only; leave it out, or set label_names=None"),
        )

    @property
    def num_labels(self) -> int:
        """Number of outputs of the task's head: one per class, or a single one for regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number and not a class."""
        return self.label_names is None

    @property
    def columns(self) -> LabelledFiles:
        """The columns of a file of rows."""
        return LabelledFiles("", self.text_fields, self.label_field)

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """Number and names of the labels; for regression, that there is one number."""
        if self.label_names is None:
            return {"num_labels": 1, "problem_type": "regression"}
        # transformers sets the type in the first forward pass, and torch.compile would then compile everything again.
        return {"problem_type": "single_label_classification", **label_settings(self.label_names)}

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row with its label as a class index or a number, and everything wrong with it."""
        label, faults = check_row(row, self)
        return {**row, "label": label}, faults

    def with_stand_in(self, row: Row) -> dict[str, Any]:
        """Return the row as one of the first class, or with the smallest number."""
        # The checks ask for a label also of rows that are to be predicted.
        number = self.label_range[0] if self.label_range else 0.0
        return {**row, self.label_field: number if self.label_names is None else self.label_names[0]}

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return the texts as token ids, cut to ``max_length``, with the label of each."""
        encoded, notices = encode_texts(rows, tokenizer, self.text_fields, max_length=max_length)
        labelled = [{**ids, "labels": label} for ids, label in zip(encoded, rows.labels, strict=True)]
        return EncodedRows(rows, labelled, notices)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the cross entropy, or the squared error of a regression task."""
        if self.is_regression:
            # Without squeeze, (rows, 1) and (rows,) would broadcast to all pairs of rows.
            return functional.mse_loss(logits.squeeze(-1), labels.to(logits))
        return super().loss(logits, labels, weights)

    def terms(self, labels: Tensor, weights: Tensor | None = None) -> float:
        """Return the number of rows, or the sum of their weights."""
        return float(len(labels)) if self.is_regression else super().terms(labels, weights)

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Return the number of rows of each class."""
        if self.label_names is None:
            raise SettingsError(f"task {self.name!r} predicts a number and has no classes to count")
        counts = Counter(rows.labels)
        return {name: counts[index] for index, name in enumerate(self.label_names)}

    def target_scale(self, rows: Rows) -> TargetScale | None:
        """Return mean and deviation of the numbers of a regression task."""
        return TargetScale.of(rows, self.label_field) if self.is_regression else None

    def validate(self, inference: Inference, data: EncodedRows) -> Evaluated:
        """Return loss and metrics, and the answer to every row."""
        logits, labels = predict(inference, ordered_loader(data.encoded, self.collator(inference.tokenizer)))
        answers = logits.squeeze(-1) if self.is_regression else logits.argmax(dim=-1)
        # In float64, so that the mean does not depend on how the rows fall into batches.
        loss = float(self.loss(logits.double(), labels))
        metrics = {"loss": loss, **compute_metrics(self, answers.tolist(), labels.tolist())}
        chances = None if self.is_regression else logits.double().softmax(dim=-1)
        columns = [answers.tolist()]
        if chances is not None:
            # Of what is answered, and of the label: with more, a file of many classes would grow without end.
            of_both = (chances.gather(1, index.unsqueeze(1)).squeeze(1) for index in (answers, labels))
            columns += [column.tolist() for column in of_both]
        ordered = in_row_order(list(zip(*columns, strict=True)), data.encoded)
        predictions = [
            {
                **place,
                "label": self._named(row["label"]),
                "prediction": self._named(answer),
                **dict(zip(("confidence", "label_confidence"), map(short_chance, both), strict=False)),
            }
            for place, row, (answer, *both) in zip(self.places(data.rows), data.rows, ordered, strict=True)
        ]
        sides = ([row[side] for row in predictions] for side in ("prediction", "label"))
        return Evaluated(metrics, predictions, notices=() if self.is_regression else one_class(*sides, of="rows"))

    def _named(self, answer: Any) -> Any:
        return answer if self.label_names is None else self.label_names[answer]

    def answers(self, inference: Inference, rows: Rows, *, max_length: int) -> Answers:
        """Return ``prediction``, and ``probabilities`` by name of the class; of regression, the number."""
        data = self.encode(rows, inference.tokenizer, max_length=max_length)
        batches = predicted_batches(inference, ordered_loader(data.encoded, self.collator(inference.tokenizer)))
        answers = [self._answer(logits) for batch, _ in batches for logits in batch.double()]
        return in_row_order(answers, data.encoded), data.notices

    def _answer(self, logits: Tensor) -> dict[str, Any]:
        if self.label_names is None:
            return {"prediction": float(logits.squeeze(-1))}
        chances = dict(zip(self.label_names, logits.softmax(dim=-1).tolist(), strict=True))
        return {"prediction": self.label_names[int(logits.argmax())], "probabilities": chances}

    def rescored(self, predictions: Sequence[Mapping[str, Any]]) -> Callable[[numpy.ndarray[Any, Any]], float]:
        """Return the headline metric as a function of row numbers."""
        if self.label_names is None:
            return by_rows(predictions, MEASURES[self.metric].compute, float)
        index = {name: position for position, name in enumerate(self.label_names)}
        return class_score(self.metric, *answers_and_labels(predictions, index.__getitem__))

    @classmethod
    def guess(cls, rows: Sequence[Row], files: LabelledFiles) -> str | None:
        """Return ``regression`` for numbers with fractions and for many whole ones, None for lists."""
        if are_lists(rows, files.label_field):
            return None
        given = given_values(rows, files.label_field)
        text = [label for label in given if isinstance(label, str)]
        fractions = any(isinstance(label, float) for label in given)
        if text and fractions:
            if files.on_bad_row == "skip" and 2 * len(text) < len(given):
                return "regression"
            raise DataError(
                f"{files.train}: the labels in {files.label_field!r} are numbers, but {text[0]!r} is among them; mend "
                "it, or say with --task-type what they are"
            )
        # First: a label at fault may be a list, which no set can hold.
        if text or any(isinstance(label, bool) for label in given):
            return "classification"
        numbers = {label for label in given if isinstance(label, int | float)}
        # pandas writes the whole numbers of a column so where one is missing: classes of 0 and 1 become 0.0 and 1.0.
        if (
            fractions
            and all(isinstance(number, int) or number.is_integer() for number in numbers)
            and len(numbers) <= MOST_NUMBERED_CLASSES
        ):
            if len(numbers) == 2:
                return "classification"
            raise DataError(
                f"{files.train}: the labels in {files.label_field!r} are {len(numbers)} whole numbers with a point, "
                f"such as {min(numbers)}: --task-type classification takes them for classes, --task-type regression "
                "for quantities"
            )
        # Ratings, ids and years are written as whole numbers too.
        return "regression" if fractions or len(numbers) > MOST_NUMBERED_CLASSES else "classification"

    @classmethod
    def from_rows(cls, rows: Sequence[Row], files: LabelledFiles, task_type: str) -> AnyTask:
        """Return a task whose classes are the labels there are, or one of regression."""
        task = functools.partial(cls, files.name, files.text_columns, label_field=files.label_field)
        if task_type == "regression":
            return task(None, metric="pearson", other_metrics=("spearmanr",))
        names = in_order(_class_names([row[files.label_field] for row in rows], files))
        return task(tuple(names), other_metrics=("macro_f1", "matthews_correlation"), labels_from=files.train)


def _class_names(labels: Sequence[Any], files: LabelledFiles) -> set[str]:
    where = f"{files.train}: the labels"
    names = {name for label in labels if (name := class_name(label)) is not None}
    if len(names) < 2:
        given = [label for label in labels if label is not None and label != ""]
        none = f"no names, but as {SHORT.repr(given[0])}" if given else "empty"
        raise DataError(
            f"{where} in {files.label_field!r} are {'all ' + names.pop() if names else none}; "
            "a classification task needs two classes"
        )
    # In this order names that differ in spaces only stand side by side.
    stripped = sorted(names, key=lambda name: (name.strip(), name))
    for before, after in zip(stripped, stripped[1:], strict=False):
        if before.strip() == after.strip():
            raise DataError(
                f"{where} {before!r} and {after!r} in {files.label_field!r} differ in spaces only; make them one"
            )
    if files.task_type is None:
        _refuse_two_readings(names, where, files.label_field)
    # A column of ids or of texts, taken for labels.
    if len(names) > MOST_CLASSES or (len(names) > 2 and len(names) > len(labels) / 2):
        raise DataError(
            f"{files.train}: {len(names):,} different labels in {files.label_field!r} for {len(labels):,} rows are too "
            "many to learn; name another --label-column"
        )
    return names


# What tables write for a value that is missing.
MISSING = frozenset(("NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null"))


def _refuse_two_readings(names: set[str], where: str, column: str) -> None:
    """Refuse names that may be a missing label, or one class in two spellings, unless the user has named the type."""
    if missing := sorted(names & MISSING):
        raise DataError(
            f"{where} in {column!r} have {missing[0]!r}, by which tables mark a missing value: take out those rows, or "
            "--task-type classification takes it for a class"
        )
    spelt: dict[str, str] = {}
    for name in sorted(names):
        other = spelt.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{where} {other!r} and {name!r} in {column!r} differ in capitals only: make them one, or "
                "--task-type classification takes them for two classes"
            )
