"""A model's scores on its validation sets, and its loss on its own training rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bilora.engines.training.result import FitResult
from bilora.tasks.task import AnyTask, EncodedRows, Evaluated, Inference, Metrics


@dataclass(frozen=True)
class Scores:
    """What a trained model is worth.

    Args:
        metrics: Loss and metrics; those of the first set have plain names, those of the others are followed by
            ``/`` and the name of the set.
        score: The task's headline metric on the first set.
        train_loss: Loss on the training rows, without dropout.
        predictions: What the model gave for each row, by set, where the task keeps that.
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
        inference: The model, which is trained on meanwhile.
        task: How its answers are scored.
        train: The training rows.
        validation: The rows of each validation set, the one that gives the score first.
    """

    def __init__(
        self, inference: Inference, *, task: AnyTask, train: EncodedRows, validation: Mapping[str, EncodedRows]
    ) -> None:
        self.inference, self.task, self.train, self.sets = inference, task, train, validation
        self._last: dict[str, Evaluated] = {}

    def validation(self) -> Metrics:
        """Return loss and the cheap metrics on the validation sets, under plain and suffixed names."""
        self._last = {name: self.task.validate(self.inference, data) for name, data in self.sets.items()}
        return _joined(self._last)

    def final(self, result: FitResult) -> Scores:
        """Return the scores of the parameters that the fit ended with."""
        # The last validation is of these parameters, unless better ones were put back after it.
        last = {} if result.metrics is None or result.best_step is not None else self._last
        evaluated = {name: self.task.evaluate(self.inference, data, last.get(name)) for name, data in self.sets.items()}
        for name, of_set in evaluated.items():
            if self.inference.processes.is_first:
                of_set.warn(name)
        metrics = _joined(evaluated)
        return Scores(
            metrics=metrics,
            score=metrics[self.task.metric],
            train_loss=self.task.validate(self.inference, self.train).metrics["loss"],
            predictions={
                name: of_set.predictions for name, of_set in evaluated.items() if of_set.predictions is not None
            },
            files={
                file if index == 0 else f"{name}-{file}": text
                for index, (name, of_set) in enumerate(evaluated.items())
                for file, text in of_set.files.items()
            },
        )


def _joined(sets: Mapping[str, Evaluated]) -> Metrics:
    joined: Metrics = {}
    for index, (name, evaluated) in enumerate(sets.items()):
        suffix = "" if index == 0 else f"/{name}"
        joined |= {key + suffix: value for key, value in evaluated.metrics.items()}
    return joined
