"""Which columns are taken for text, and which for lists."""

from typing import Any

import pytest

from bilora.errors import DataError
from bilora.tasks.labels import KNOWN_COLUMNS, are_lists, guess_text_columns


@pytest.mark.parametrize("columns", KNOWN_COLUMNS)
def test_known_names_are_taken_among_others(columns: tuple[str, ...]) -> None:
    row = {"idx": 3, "note": "seen by two people", **dict.fromkeys(columns, "some text"), "label": 1}
    assert guess_text_columns([row], label_columns=["label"], source="a.jsonl") == columns


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([{"id": "a7", "body": "see you", "kind": "spam mail"}], ("body",)),
        ([{"subject": "win now", "body": "see you", "kind": "spam"}], ("subject", "body")),
        ([{"number": "7", "body": "見て", "kind": "x"}], ("body",)),
        ([{"a": "one two", "b": "one two", "kind": "x"}, {"a": "three", "b": "one two", "kind": "x"}], ("b",)),
    ],
)
def test_others_are_told_by_what_they_hold(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    assert guess_text_columns(rows, label_columns=["kind"], source="a.jsonl") == columns


@pytest.mark.parametrize("texts", ["", "abc"])
def test_none_or_more_than_two_are_not_guessed(texts: str) -> None:
    row = dict.fromkeys(texts, "some text") | {"label": 1}
    with pytest.raises(DataError, match="a.jsonl: .* name one or two with --text-columns"):
        guess_text_columns([row], label_columns=["label"], source="a.jsonl")


@pytest.mark.parametrize(
    ("values", "expected"), [([["a"], ["b"]], True), ([["a"], "b"], True), ([["a"], "b", "c"], False), (["a"], False)]
)
def test_half_of_the_values_make_a_column_one_of_lists(values: list[Any], expected: bool) -> None:
    rows = [{"label": value} for value in [*values, None, ""]]
    assert are_lists(rows, "label") is expected
