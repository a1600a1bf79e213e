"""Tasks of tokens: how rows are checked, and the tags predicted, those that the model never sees among them."""

import math
import re
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from bilora.data.rows import check_rows
from bilora.errors import DataError, SettingsError
from bilora.metrics.metric import UndefinedMetricWarning
from bilora.tasks.catalog import find_task
from bilora.tasks.task import Inference
from bilora.tasks.tokens.task import TokenTask, tags_in_order

TASK = TokenTask("toy", ("O", "B-town", "I-town"))
SPEECH = TokenTask("speech", ("NOUN", "VERB"), tokens_field="words", tags_field="pos")


def test_names_and_indices_of_tags_and_others_that_have_no_order() -> None:
    row, faults = TASK.check_row({"id": 7, "tokens": ["in", "New", "York"], "tags": ["O", 1, "I-town"]})
    assert faults == []
    assert row == {"id": 7, "tokens": ("in", "New", "York"), "tags": (0, 1, 2), "label": None}
    row, faults = SPEECH.check_row({"words": ["run", "time"], "pos": ["VERB", "NOUN"]})
    assert (row["pos"], faults) == ((1, 0), [])
    assert (SPEECH.metric, SPEECH.metric_keys) == ("token_accuracy", ("token_accuracy",))
    for tags in (("O", "B-a", "X"), ("O", "B-"), ("O", "b-a")):
        assert not TokenTask("x", tags).marks_entities


@pytest.mark.parametrize(
    ("row", "field", "text"),
    [
        ({"tokens": ["a"]}, "tags", "is missing; the row has tokens."),
        ({"token": ["a"], "tags": ["O"]}, "tokens", "is missing; the row has token, tags. Did you mean 'token'?"),
        ({"tokens": "in Rome", "tags": ["O"]}, "tokens", "is 'in Rome' (str); a list of tokens is needed"),
        ({"tokens": [], "tags": []}, "tokens", "is empty; every row needs a token"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "tokens", "token 2 is ' '; every token is text"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, "tokens", "token 2 is None"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags", "has 1 tags for 2 tokens; there must be one each"),
        ({"tokens": ["a"], "tags": "O"}, "tags", "is 'O' (str); a list of tags is needed"),
        ({"tokens": ["a"], "tags": ["B-twon"]}, "tags", "tag 1 is 'B-twon', which is no tag; known: O, B-town"),
        ({"tokens": ["a"], "tags": [3]}, "tags", "tag 1 is 3, which is no tag"),
        ({"tokens": ["a"], "tags": [True]}, "tags", "tag 1 is True, which is no tag"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-town"]}, "tags", "tag 2 is 'I-town' behind 'O'; in IOB2"),
        ({"tokens": ["a"], "tags": ["I-town"]}, "tags", "tag 1 is 'I-town' behind 'O'"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(row: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"train.jsonl:2 field '{field}': {text}")):
        check_rows([(1, {"tokens": ["a"], "tags": ["O"]}), (2, row)], TASK, source="train.jsonl", split="train")


def test_entities_of_another_type_begin_anew_and_tags_of_a_file_are_names() -> None:
    entities = TokenTask("both", ("O", "B-a", "I-a", "B-b", "I-b"))
    names = TokenTask("mine", ("0", "1"), labels_from="mine.jsonl")
    _, (fault,) = entities.check_row({"tokens": ["x", "y"], "tags": ["B-a", "I-b"]})
    assert "tag 2 is 'I-b' behind 'B-a'" in fault.text
    _, (fault,) = names.check_row({"tokens": ["x", "y"], "tags": [1, 0]})
    assert "1, which is no tag of mine.jsonl; those are: 0, 1" in fault.text


def test_order_of_tags_and_faults_of_a_task_that_are_told_together() -> None:
    with pytest.raises(SettingsError, match="label_names.*tokens_field.*validation_splits"):
        TokenTask("bad", ("O", "O"), tokens_field="x", tags_field="x", validation_splits=())
    assert tags_in_order({"I-loc", "O", "B-per", "I-per", "B-loc"}) == ["O", "B-loc", "I-loc", "B-per", "I-per"]


def test_the_corpus_is_read_whole_with_as_many_diseases_as_it_has(ner_folder: Any) -> None:
    rows = find_task("ncbi_disease").load_rows(ner_folder)
    assert (len(rows.train), len(rows.validation["validation"])) == (5432, 923)
    assert sum(row["tags"].count(1) for row in rows.train) == 5145


SENTENCES = [
    {"tokens": ["from", "New", "York", "to", "Rome"], "tags": ["O", "B-town", "I-town", "O", "B-town"]},
    {"tokens": ["Škofja", "Loka", "to"], "tags": ["B-town", "I-town", "O"]},
    {"tokens": ["to", "Rome"], "tags": ["O", "B-town"]},
]
ROWS = check_rows(enumerate(SENTENCES, start=1), TASK, source="toy.jsonl", split="validation")


class Knowing(nn.Module):
    """Gives the right tag for the pieces it knows by id, and O for the others."""

    def __init__(self, tags: dict[int, int]) -> None:
        super().__init__()
        self.tags = tags
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        indices = torch.tensor([[self.tags.get(int(piece), 0) for piece in row] for row in input_ids])
        return SimpleNamespace(logits=nn.functional.one_hot(indices, 3).float() * 10)


@pytest.fixture
def model(tokenizer: Any) -> Knowing:
    first = {"rome": 1, "new": 1, "york": 2, "sk": 1, "lok": 2}
    return Knowing({tokenizer.convert_tokens_to_ids(piece): tag for piece, tag in first.items()})


def test_a_model_that_knows_all_is_right_with_the_loss_of_first_pieces(tokenizer: Any, model: Knowing) -> None:
    """Rows are scored in order of length and given back in their own; later pieces do not count."""
    data = TASK.encode(ROWS, tokenizer, max_length=16)
    evaluated = TASK.evaluate(Inference(model, tokenizer), data)
    assert data.notices == ()
    assert evaluated.metrics["entity_f1"] == evaluated.metrics["token_accuracy"] == 1.0
    predicted = [(row["row"], row["predicted"]) for row in evaluated.predictions or ()]
    assert predicted == [(index, row["tags"]) for index, row in enumerate(SENTENCES)]
    expected = -torch.tensor([10.0, 0.0, 0.0]).double().log_softmax(0)[0].item()
    assert TASK.validate(Inference(model, tokenizer), data).metrics["loss"] == pytest.approx(expected, rel=1e-9)


def test_tokens_that_do_not_fit_are_missed(tokenizer: Any, model: Knowing) -> None:
    data = TASK.encode(ROWS, tokenizer, max_length=5)
    (notice,) = data.notices
    assert notice.startswith("2 of the 3 rows of toy.jsonl are longer than max_length 5: 4 tokens are not seen by the")
    evaluated = TASK.evaluate(Inference(model, tokenizer), data)
    predicted = [row["predicted"] for row in evaluated.predictions or ()]
    assert predicted[:2] == [["O", "B-town", "I-town", "O", "O"], ["B-town", "O", "O"]]
    confidence = evaluated.predictions[1]["confidence"] if evaluated.predictions else []
    # Of softmax (10, 0, 0); behind the cut nothing is known.
    assert confidence == [pytest.approx(math.exp(10) / (math.exp(10) + 2), abs=1e-6), None, None]
    # Right: New York in the first row, Rome in the last; Škofja alone is no match, the second Rome is not seen.
    assert evaluated.metrics["entity_recall"] == pytest.approx(2 / 4)
    assert evaluated.metrics["entity_precision"] == pytest.approx(2 / 3)
    assert evaluated.metrics["token_accuracy"] == pytest.approx(8 / 10)
    score = TASK.rescored(evaluated.predictions or ())
    assert score(numpy.arange(3)) == evaluated.metrics["entity_f1"]
    # Rome alone is found in the last row, and one of two towns in the first one, twice.
    assert score(numpy.array([0, 0, 2])) == pytest.approx(2 * 3 / (3 + 5))


def test_without_a_tag_for_outside_what_is_not_seen_is_wrong_and_a_model_may_find_nothing(tokenizer: Any) -> None:
    task, inference = TokenTask("speech", ("NOUN", "VERB", "X")), Inference(Knowing({}), tokenizer)
    rows = check_rows([(1, {"tokens": ["to"] * 6, "tags": ["NOUN"] * 6})], task, source="toy", split="validation")
    evaluated = task.evaluate(inference, task.encode(rows, tokenizer, max_length=5))
    assert evaluated.metrics["token_accuracy"] == pytest.approx(3 / 6)
    with pytest.warns(UndefinedMetricWarning, match="entity_precision"):
        evaluated = TASK.validate(inference, TASK.encode(ROWS, tokenizer, max_length=16))
    assert (TASK.watched.metric, evaluated.metrics["entity_f1"]) == ("entity_f1", 0.0)
