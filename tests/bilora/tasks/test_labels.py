"""Which columns are taken for text, and which for lists."""

from typing import Any

import pytest

from bilora.errors import DataError
from bilora.tasks.labels import KNOWN_COLUMNS, are_lists, guess_label_column, guess_text_columns


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


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ([{"text": "a b", "label": 1, "sentiment": 2}], "label"),
        ([{"text": "a b", "Label": 1}], "Label"),
        ([{"text": "a b", "sentiment": "good", "id": 3}], "sentiment"),
        # By what stands in it: one column repeats its values, the others do not.
        ([{"words": f"text {row}", "mark": "ab"[row % 2], "n": row} for row in range(8)], "mark"),
        ([{"column_1": f"text {row}", "column_2": row % 3} for row in range(9)], "column_2"),
        # Nothing speaks for one: the default's absence is told with the columns that there are.
        ([{"words": f"text {row}", "n": row} for row in range(8)], "label"),
    ],
)
def test_the_column_of_labels_is_found(rows: list[dict[str, Any]], column: str) -> None:
    assert guess_label_column(rows, text_columns=(), source="a.csv") == column


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "a b", "category": 1, "rating": 2}],
        [{"words": f"text {row}", "mark": "ab"[row % 2], "source": "xy"[row // 4]} for row in range(8)],
    ],
)
def test_of_several_columns_of_labels_none_is_taken(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="could each be the label; name one with --label-column"):
        guess_label_column(rows, text_columns=(), source="a.csv")
