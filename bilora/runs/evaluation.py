"""A model's scores on its validation sets, and its loss on its own training rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bilora.engines.training.result import FitResult
from bilora.tasks.task import AnyTask, EncodedRows, Evaluated, Inference, Metrics


@dataclass(frozen=True)
class Scores:
    """What a trained model is worth; names of the first set are plain, and the others say their set."""

    metrics: Metrics  # loss and metrics; of other sets as <metric>/<set>
    score: float | None  # the task's headline metric on the first set
    train_loss: float | None  # without dropout
    predictions: dict[str, list[dict[str, Any]]]  # per row, by set, where the task keeps them
    files: dict[str, str]  # text of other files, by name; of other sets as <set>-<file>


class Evaluation:
    """Evaluates one model, trained on meanwhile, on the sets of one run, of which the first gives the score."""

    def __init__(
        self, inference: Inference, *, task: AnyTask, train: EncodedRows, validation: Mapping[str, EncodedRows]
    ) -> None:
        self.inference, self.task, self.train, self.sets = inference, task, train, validation
        # What the last validation found, so that the parameters it was of are not run through the sets twice.
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
        predictions: dict[str, list[dict[str, Any]]] = {}
        files: dict[str, str] = {}
        for index, (name, of_set) in enumerate(evaluated.items()):
            # Every process has the same scores, of which one warning is enough.
            if self.inference.processes.is_first:
                of_set.warn(name)
            if of_set.predictions is not None:
                predictions[name] = of_set.predictions
            files |= {file if index == 0 else f"{name}-{file}": text for file, text in of_set.files.items()}
        metrics = _joined(evaluated)
        # Measured in training, the loss would be that of dropout and of parameters that have moved since.
        train_loss = self.task.validate(self.inference, self.train).metrics["loss"]
        return Scores(metrics, metrics[self.task.metric], train_loss, predictions, files)


def _joined(sets: Mapping[str, Evaluated]) -> Metrics:
    # Plain names for the first set: it gives the score, and what watches a metric knows it by its plain name.
    joined: Metrics = {}
    for index, (name, evaluated) in enumerate(sets.items()):
        suffix = "" if index == 0 else f"/{name}"
        joined |= {key + suffix: value for key, value in evaluated.metrics.items()}
    return joined
