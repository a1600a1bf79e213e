"""Tags predicted for the tokens of a row, those that the model never sees among them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from bilora.data.rows import Rows, check_rows
from bilora.metrics.metric import UndefinedMetricWarning
from bilora.models.embedded import embedded_model_folder
from bilora.tasks.task import Inference
from bilora.tasks.tokens.task import TokenTask

TASK = TokenTask("toy", ("O", "B-town", "I-town"))
SENTENCES = [
    [("from", "O"), ("New", "B-town"), ("York", "I-town"), ("to", "O"), ("Rome", "B-town")],
    [("Škofja", "B-town"), ("Loka", "I-town"), ("to", "O")],
    [("to", "O"), ("Rome", "B-town")],
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded_model_folder())


def rows_of(sentences: list[list[tuple[str, str]]]) -> Rows:
    pairs = [
        (line, {"tokens": [token for token, _ in each], "tags": [tag for _, tag in each]})
        for line, each in enumerate(sentences, start=1)
    ]
    return check_rows(pairs, TASK, source="toy.jsonl", split="validation")


class Knowing(nn.Module):
    """Gives the right tag for the pieces it knows by id, and O for the others."""

    def __init__(self, tags: dict[int, int]) -> None:
        super().__init__()
        self.tags = tags
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        indices = torch.tensor([[self.tags.get(int(each), 0) for each in row] for row in input_ids])
        return SimpleNamespace(logits=nn.functional.one_hot(indices, 3).float() * 10)


@pytest.fixture
def model(tokenizer: Any) -> Knowing:
    first = {"rome": 1, "new": 1, "york": 2, "sk": 1, "lok": 2}
    return Knowing({tokenizer.convert_tokens_to_ids(piece): tag for piece, tag in first.items()})


def test_a_model_that_knows_all_is_right(tokenizer: Any, model: Knowing) -> None:
    """Rows are scored in order of length and given back in their own; later pieces do not count."""
    data = TASK.encode(rows_of(SENTENCES), tokenizer, max_length=16)
    found = TASK.evaluate(Inference(model, tokenizer), data)
    assert data.notices == ()
    assert found.metrics["entity_f1"] == found.metrics["token_accuracy"] == 1.0
    assert found.predictions is not None
    assert [row["predicted"] for row in found.predictions] == [[tag for _, tag in each] for each in SENTENCES]
    assert [row["row"] for row in found.predictions] == [0, 1, 2]


def test_tokens_that_do_not_fit_are_missed(tokenizer: Any, model: Knowing) -> None:
    data = TASK.encode(rows_of(SENTENCES), tokenizer, max_length=5)
    assert data.notices == (
        "2 of the 3 rows of toy.jsonl are longer than max_length 5: 4 tokens are not seen by the model, and count as "
        "not found",
    )
    found = TASK.evaluate(Inference(model, tokenizer), data)
    assert found.predictions is not None
    assert found.predictions[0]["predicted"] == ["O", "B-town", "I-town", "O", "O"]
    assert found.predictions[1]["predicted"] == ["B-town", "O", "O"]
    # Right: New York in the first row, Rome in the last; Škofja alone is no match, the second Rome is not seen.
    assert found.metrics["entity_recall"] == pytest.approx(2 / 4)
    assert found.metrics["entity_precision"] == pytest.approx(2 / 3)
    assert found.metrics["token_accuracy"] == pytest.approx(8 / 10)


def test_without_a_tag_for_outside_what_is_not_seen_is_wrong(tokenizer: Any) -> None:
    task = TokenTask("speech", ("NOUN", "VERB", "X"))
    rows = check_rows([(1, {"tokens": ["to"] * 6, "tags": ["NOUN"] * 6})], task, source="toy", split="validation")
    data = task.encode(rows, tokenizer, max_length=5)
    found = task.evaluate(Inference(Knowing({}), tokenizer), data)
    assert found.metrics["token_accuracy"] == pytest.approx(3 / 6)


def test_the_loss_is_that_of_first_pieces(tokenizer: Any, model: Knowing) -> None:
    data = TASK.encode(rows_of(SENTENCES), tokenizer, max_length=16)
    expected = -torch.tensor([10.0, 0.0, 0.0]).double().log_softmax(0)[0].item()
    assert TASK.validate(Inference(model, tokenizer), data).metrics["loss"] == pytest.approx(expected, rel=1e-9)


def test_a_model_that_finds_nothing(tokenizer: Any) -> None:
    data = TASK.encode(rows_of(SENTENCES), tokenizer, max_length=16)
    with pytest.warns(UndefinedMetricWarning, match="entity_precision"):
        found = TASK.validate(Inference(Knowing({}), tokenizer), data).metrics
    assert found["entity_f1"] == 0.0
    assert TASK.watched.metric == "entity_f1"
