"""A model's scores on its validation sets, and its loss on its own training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bilora.engines.training.result import FitResult
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.tasks.kind import EncodedRows, Metrics, TaskKind


@dataclass(frozen=True)
class Scores:
    """What a trained model is worth.

    Args:
        metrics: Loss and metrics; those of the first set have plain names, those of the others are followed by
            ``/`` and the name of the set.
        score: The task's headline metric on the first set.
        train_loss: Loss on the training rows, without dropout.
        predictions: What the model gave for each row, by set, where the kind of task keeps that.
        files: Text of other files, by name; those of the first set have plain names, as the metrics have.
    """

    metrics: Metrics
    score: float | None
    train_loss: float | None
    predictions: dict[str, list[dict[str, Any]]]
    files: dict[str, str]


class Evaluation:
    """Evaluates one model on the sets of one run.

    Args:
        model: The model.
        kind: How tasks of this kind are scored.
        tokenizer: The model's tokenizer.
        train: The training rows.
        validation: The rows of each validation set, the one that gives the score first.
        autocast_dtype: The autocast type of the forward pass; None for none.
        processes: They share the rows of every set.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        kind: TaskKind,
        tokenizer: Any,
        train: EncodedRows,
        validation: Mapping[str, EncodedRows],
        autocast_dtype: torch.dtype | None = None,
        processes: Processes = ONE_PROCESS,
    ) -> None:
        self.model = model
        self.kind = kind
        self.tokenizer = tokenizer
        self.train = train
        self.sets = validation
        self.autocast_dtype = autocast_dtype
        self.processes = processes
        self._last: dict[str, Metrics] = {}

    def validation(self) -> Metrics:
        """Return loss and the cheap metrics on the validation sets, under plain and suffixed names."""
        self._last = {name: self._validate(data) for name, data in self.sets.items()}
        return _joined(self._last)

    def final(self, result: FitResult) -> Scores:
        """Return the scores of the parameters that the fit ended with."""
        # The last validation is of these parameters, unless better ones were put back after it.
        last = {} if result.metrics is None or result.best_step is not None else self._last
        found = {
            name: self.kind.evaluate(
                self.model,
                data,
                self.tokenizer,
                autocast_dtype=self.autocast_dtype,
                validated=last.get(name),
                processes=self.processes,
            )
            for name, data in self.sets.items()
        }
        for name, each in found.items():
            if self.processes.is_first:
                each.warn(name)
        metrics = _joined({name: each.metrics for name, each in found.items()})
        return Scores(
            metrics=metrics,
            score=metrics[self.kind.task.metric],
            train_loss=self._validate(self.train)["loss"],
            predictions={name: each.predictions for name, each in found.items() if each.predictions is not None},
            files={
                file if index == 0 else f"{name}-{file}": text
                for index, (name, each) in enumerate(found.items())
                for file, text in each.files.items()
            },
        )

    def _validate(self, data: EncodedRows) -> Metrics:
        return self.kind.validate(
            self.model, data, self.tokenizer, autocast_dtype=self.autocast_dtype, processes=self.processes
        )


def _joined(found: Mapping[str, Metrics]) -> Metrics:
    joined: Metrics = {}
    for index, (name, metrics) in enumerate(found.items()):
        suffix = "" if index == 0 else f"/{name}"
        joined |= {key + suffix: value for key, value in metrics.items()}
    return joined
