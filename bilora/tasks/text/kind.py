"""Classification of, and regression on, one text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from bilora.data.loaders import Collate
from bilora.data.rows import Rows
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.tasks.catalog import Task
from bilora.tasks.kind import EncodedRows, Evaluated, Metrics
from bilora.tasks.labels import label_settings
from bilora.tasks.scoring import length_order, one_class, ordered_loader, predict, score
from bilora.tasks.text.batches import Collator, encode


@dataclass(frozen=True)
class NoSettings:
    """A kind of task without settings of its own."""


class TextKind:
    """A head over the whole text: cross entropy over classes, or squared error of one number.

    Args:
        task: The task.
        settings: There are none.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> kind = TextKind(TASKS["mrpc"])
        >>> kind.task_type, kind.model_settings["id2label"]
        ('SEQ_CLS', {0: 'not_equivalent', 1: 'equivalent'})
    """

    task_type = "SEQ_CLS"
    model_class = AutoModelForSequenceClassification
    tokenizer_settings: Mapping[str, Any] = {}

    def __init__(self, task: Task, settings: NoSettings | None = None) -> None:
        self.task = task
        self._latest: dict[int, tuple[Metrics, Tensor]] = {}

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """Return number and names of the labels; for regression, that there is one number."""
        if self.task.label_names is None:
            return {"num_labels": 1, "problem_type": "regression"}
        # transformers sets the type in the first forward pass, and torch.compile would then compile everything again.
        return {"problem_type": "single_label_classification", **label_settings(self.task.label_names)}

    @cached_property
    def watched(self) -> Monitor:
        """The task's own metric."""
        return Monitor(self.task.metric, greater_is_better=self.task.greater_is_better)

    def encode(self, rows: Rows, tokenizer: Any, *, max_length: int) -> EncodedRows:
        """Return the texts as token ids, cut to ``max_length``."""
        return EncodedRows(rows, encode(rows, tokenizer, self.task, max_length=max_length))

    def collate(self, tokenizer: Any) -> Collate:
        """Return a collator that pads to the longest row."""
        return Collator(tokenizer)

    def class_counts(self, rows: Rows) -> dict[str, int]:
        """Return the number of rows of each class."""
        names = self.task.label_names
        if names is None:
            raise SettingsError(f"task {self.task.name!r} predicts a number and has no classes to count")
        counts = Counter(rows.labels)
        return {name: counts[index] for index, name in enumerate(names)}

    def validate(
        self,
        model: nn.Module,
        data: EncodedRows,
        tokenizer: Any,
        *,
        autocast_dtype: torch.dtype | None,
        processes: Processes = ONE_PROCESS,
    ) -> Metrics:
        """Return loss and metrics."""
        loader = ordered_loader(data.encoded, self.collate(tokenizer))
        logits, labels = predict(model, loader, autocast_dtype=autocast_dtype, processes=processes)
        metrics = score(logits, labels, self.task)
        self._latest[id(data)] = metrics, logits
        return metrics

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
        """Return loss and metrics, and the answer to every row."""
        metrics, logits = self._latest.get(id(data), (None, None))
        # Only what came of this very validation is of the parameters as they are now.
        if validated is None or metrics is not validated or logits is None:
            validated = self.validate(model, data, tokenizer, autocast_dtype=autocast_dtype, processes=processes)
            _, logits = self._latest[id(data)]
        del self._latest[id(data)]
        predictions = self._predictions(data, logits)
        return Evaluated(validated, predictions, notices=self._notices(predictions))

    def _notices(self, predictions: list[dict[str, Any]]) -> tuple[str, ...]:
        if self.task.label_names is None:
            return ()
        return one_class(
            (each["prediction"] for each in predictions), (each["label"] for each in predictions), of="rows"
        )

    def _predictions(self, data: EncodedRows, logits: Tensor) -> list[dict[str, Any]]:
        """Return id, label and prediction of each row, classes by name."""
        names = self.task.label_names
        answers = (logits.squeeze(-1) if names is None else logits.argmax(dim=-1)).tolist()
        by_position = dict(zip(length_order(data.encoded), answers, strict=True))
        return [
            {
                "id": row_id,
                "label": row["label"] if names is None else names[row["label"]],
                "prediction": by_position[position] if names is None else names[by_position[position]],
            }
            for position, (row_id, row) in enumerate(zip(data.rows.ids, data.rows.rows, strict=True))
        ]
