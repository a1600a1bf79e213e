"""The scores of a model over its sets, whatever the kind of task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from bilora.data.rows import Rows
from bilora.engines.training.fit import FitResult
from bilora.runs.evaluation import Evaluation
from bilora.tasks.kind import EncodedRows, Evaluated


class Kind:
    """Counts what it is asked; every set's loss is its number of rows."""

    task = SimpleNamespace(metric="quality")

    def __init__(self) -> None:
        self.validated: list[int] = []
        self.known: list[Any] = []

    def validate(self, model: nn.Module, data: EncodedRows, tokenizer: Any, **options: Any) -> Any:
        self.validated.append(len(data.encoded))
        return {"loss": float(len(data.encoded))}

    def evaluate(self, model: Any, data: Any, tokenizer: Any, *, validated: Any, **options: Any) -> Evaluated:
        self.known.append(validated)
        kept = [{"text": "a"}] if len(data.encoded) == 2 else None
        return Evaluated({"loss": 0.5, "quality": 10.0 * len(data.encoded)}, kept)


def rows(count: int) -> EncodedRows:
    return EncodedRows(Rows((), "toy", (), ()), [{}] * count)


def ended(*, metrics: Any, best_step: int | None = None) -> FitResult:
    return FitResult(4, 2, metrics, best_step, (), 1.0, None)


@pytest.fixture
def kind() -> Kind:
    return Kind()


@pytest.fixture
def evaluation(kind: Kind) -> Evaluation:
    sets = {"matched": rows(2), "mismatched": rows(3)}
    return Evaluation(nn.Linear(1, 1), kind=kind, tokenizer=None, train=rows(5), validation=sets)  # type: ignore[arg-type]


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
    evaluation: Evaluation, kind: Kind, best_step: int | None, known: list[Any]
) -> None:
    evaluation.final(ended(metrics=evaluation.validation(), best_step=best_step))
    assert kind.known == known
    assert kind.validated == [2, 3, 5], "the two sets once, and the training rows"
