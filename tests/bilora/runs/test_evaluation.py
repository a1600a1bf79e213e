"""The scores of a model over its sets, whatever the kind of task."""

from typing import Any

import pytest
from torch import nn

from bilora.data.rows import Rows
from bilora.engines.training.fit import FitResult
from bilora.runs.evaluation import Evaluation
from bilora.tasks.task import EncodedRows, Evaluated, Inference


class Task:
    """Counts what it is asked; every set's loss is its number of rows."""

    metric = "quality"

    def __init__(self) -> None:
        self.validated: list[int] = []
        self.known: list[Any] = []

    def validate(self, inference: Inference, data: EncodedRows) -> Evaluated:
        self.validated.append(len(data.encoded))
        return Evaluated({"loss": float(len(data.encoded))})

    def evaluate(self, inference: Inference, data: EncodedRows, validated: Evaluated | None = None) -> Evaluated:
        self.known.append(None if validated is None else validated.metrics)
        kept = [{"text": "a"}] if len(data.encoded) == 2 else None
        return Evaluated({"loss": 0.5, "quality": 10.0 * len(data.encoded)}, kept)


def rows(count: int) -> EncodedRows:
    return EncodedRows(Rows((), "toy", (), ()), [{}] * count)


def ended(*, metrics: Any, best_step: int | None = None) -> FitResult:
    return FitResult(4, 2, metrics, best_step, (), 1.0, None)


@pytest.fixture
def task() -> Task:
    return Task()


@pytest.fixture
def evaluation(task: Task) -> Evaluation:
    sets = {"matched": rows(2), "mismatched": rows(3)}
    return Evaluation(Inference(nn.Linear(1, 1), None), task=task, train=rows(5), validation=sets)  # type: ignore[arg-type]


def test_the_first_set_has_plain_names(evaluation: Evaluation) -> None:
    assert evaluation.validation() == {"loss": 2.0, "loss/mismatched": 3.0}


def test_the_score_is_that_of_the_first_set(evaluation: Evaluation) -> None:
    scores = evaluation.final(ended(metrics=None))
    assert (scores.score, scores.train_loss) == (20.0, 5.0)
    assert list(scores.metrics) == ["loss", "quality", "loss/mismatched", "quality/mismatched"]
    assert scores.predictions == {"matched": [{"text": "a"}]}


@pytest.mark.parametrize(
    ("best_step", "known"), [(None, [{"loss": 2.0}, {"loss": 3.0}]), (2, [None, None])], ids=["last", "put back"]
)
def test_a_validation_of_the_last_parameters_is_not_made_twice(
    evaluation: Evaluation, task: Task, best_step: int | None, known: list[Any]
) -> None:
    evaluation.final(ended(metrics=evaluation.validation(), best_step=best_step))
    assert task.known == known
    assert task.validated == [2, 3, 5], "the two sets once, and the training rows"
