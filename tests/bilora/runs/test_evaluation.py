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
def evaluation() -> Evaluation:
    sets = {"matched": rows(2), "mismatched": rows(3)}
    return Evaluation(Inference(nn.Linear(1, 1), None), task=Task(), train=rows(5), validation=sets)  # type: ignore[arg-type]


def test_the_first_set_has_plain_names_and_gives_the_score(evaluation: Evaluation) -> None:
    assert evaluation.validation() == {"loss": 2.0, "loss/mismatched": 3.0}
    scores = evaluation.final(ended(metrics=None))
    assert (scores.score, scores.train_loss) == (20.0, 5.0)
    assert list(scores.metrics) == ["loss", "quality", "loss/mismatched", "quality/mismatched"]
    assert scores.predictions == {"matched": [{"text": "a"}]}


@pytest.mark.parametrize(
    ("best_step", "known"), [(None, [{"loss": 2.0}, {"loss": 3.0}]), (2, [None, None])], ids=["last", "put back"]
)
def test_the_last_validation_is_not_made_twice(evaluation: Any, best_step: int | None, known: list[Any]) -> None:
    evaluation.final(ended(metrics=evaluation.validation(), best_step=best_step))
    assert evaluation.task.known == known
    assert evaluation.task.validated == [2, 3, 5], "the two sets once, and the training rows"
