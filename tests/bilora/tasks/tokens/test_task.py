from __future__ import annotations

from typing import Any

import pytest

from bilora.data.rows import check_rows
from bilora.errors import DataError, SettingsError
from bilora.tasks.catalog import find_task
from bilora.tasks.tokens.task import TokenTask, tags_in_order

TOWNS = TokenTask("towns", ("O", "B-town", "I-town"))
SPEECH = TokenTask("speech", ("NOUN", "VERB"), tokens_field="words", tags_field="pos")


def test_names_and_indices_of_tags() -> None:
    row, faults = TOWNS.check_row({"id": 7, "tokens": ["in", "New", "York"], "tags": ["O", 1, "I-town"]})
    assert faults == []
    assert row == {"id": 7, "tokens": ("in", "New", "York"), "tags": (0, 1, 2), "label": None}


@pytest.mark.parametrize(
    ("row", "field", "said"),
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
def test_what_is_wrong_is_named_by_field(row: dict[str, Any], field: str, said: str) -> None:
    _, (fault,) = TOWNS.check_row(row)
    assert fault.field == field
    assert fault.text.startswith(said)


def test_an_entity_of_another_type_begins_anew() -> None:
    both = TokenTask("both", ("O", "B-a", "I-a", "B-b", "I-b"))
    _, (fault,) = both.check_row({"tokens": ["x", "y"], "tags": ["B-a", "I-b"]})
    assert "tag 2 is 'I-b' behind 'B-a'" in fault.text


def test_other_tags_have_no_order() -> None:
    row, faults = SPEECH.check_row({"words": ["run", "time"], "pos": ["VERB", "NOUN"]})
    assert (row["pos"], faults) == ((1, 0), [])
    assert (SPEECH.metric, SPEECH.metric_keys) == ("token_accuracy", ("token_accuracy",))


def test_tags_of_a_file_are_names_only() -> None:
    task = TokenTask("mine", ("0", "1"), labels_from="mine.jsonl")
    _, (fault,) = task.check_row({"tokens": ["a"], "tags": [1]})
    assert fault.text == "tag 1 is 1, which is no tag of mine.jsonl; those are: 0, 1"


def test_a_bad_row_is_named_by_file_and_line() -> None:
    rows = [(1, {"tokens": ["a"], "tags": ["O"]}), (2, {"tokens": ["a"], "tags": []})]
    with pytest.raises(DataError, match=r"train.jsonl:2 field 'tags': has 0 tags for 1 tokens"):
        check_rows(rows, TOWNS, source="train.jsonl", split="train")


@pytest.mark.parametrize("tags", [("O", "B-a", "X"), ("O", "B-"), ("O", "b-a")])
def test_tags_that_mark_no_entities(tags: tuple[str, ...]) -> None:
    assert not TokenTask("x", tags).marks_entities


def test_faults_of_a_task_are_told_together() -> None:
    with pytest.raises(SettingsError) as caught:
        TokenTask("bad", ("O", "O"), tokens_field="x", tags_field="x", validation_splits=())
    assert all(word in str(caught.value) for word in ("label_names", "tokens_field", "validation_splits"))


def test_order_of_tags() -> None:
    assert tags_in_order({"I-loc", "O", "B-per", "I-per", "B-loc"}) == ["O", "B-loc", "I-loc", "B-per", "I-per"]


def test_the_corpus_is_read_whole(ner_folder: Any) -> None:
    rows = find_task("ncbi_disease").load_rows(ner_folder)
    assert rows.task is find_task("ncbi_disease")
    assert (len(rows.train), len(rows.validation["validation"])) == (5432, 923)
    entities = sum(row["tags"].count(1) for row in rows.train)
    assert entities == 5145, "diseases in the training set, as the corpus has them"
