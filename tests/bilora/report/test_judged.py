"""Answers decision by decision, and the errors among them, against what can be seen by eye."""

import numpy
import pytest

from bilora.report.judged import confident_errors, judged, kind_of_answers, largest_errors, table_by_class

CLASSES = [
    {"id": 4, "line": 6, "text": "a", "label": "no", "prediction": "yes", "confidence": 0.9},
    {"id": 5, "line": 7, "text": "b", "label": "no", "prediction": "no", "confidence": 0.99},
    {"id": 6, "line": 8, "text": "c", "label": "yes", "prediction": "no", "confidence": 0.6},
]
OTHER = [{**CLASSES[0], "prediction": "no"}, CLASSES[1], {**CLASSES[2], "confidence": 0.8}]
LABELS = [{"id": 0, "label": ["red"], "prediction": ["big"], "probabilities": {"red": 0.3, "big": 0.9, "old": 0.2}}]
TOKENS = [
    {"row": 0, "line": 1, "tokens": ["in", "New", "York"], "tags": ["O", "B-x", "I-x"], "predicted": ["O", "O", "B-x"]}
]


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (CLASSES, "classes"),
        (LABELS, "labels"),
        (TOKENS, "tokens"),
        ([{"label": 1.0, "prediction": 2}], "numbers"),
        ([{"source": "a", "output": "b"}], None),
        ([{"label": 1.0, "prediction": "b"}], None),
        ([], None),
    ],
)
def test_kinds_of_answers(answers: list[dict[str, object]], kind: str | None) -> None:
    assert kind_of_answers(answers) == kind
    if kind is None:
        assert judged(answers).empty


def test_the_surest_error_comes_first() -> None:
    first, second = confident_errors([judged(CLASSES)], most=20)
    assert first == {"row": 6, "text": "a", "label": "no", "answer": "yes", "confidence": 0.9}
    assert (second["row"], second["confidence"]) == (8, 0.6)
    assert confident_errors([judged(CLASSES)], most=1) == [first]


def test_of_several_runs_the_mean_confidence_counts() -> None:
    """A run that is right counts as zero: (0.6 + 0.8) / 2 is before 0.9 / 2."""
    first, second = confident_errors([judged(CLASSES), judged(OTHER)], most=20)
    assert (first["row"], first["confidence"], first["runs"]) == (8, pytest.approx(0.7), "2 of 2")
    assert (second["row"], second["confidence"], second["runs"]) == (6, pytest.approx(0.45), "1 of 2")


def test_runs_that_kept_no_confidence_name_no_candidates() -> None:
    bare = [{"id": 0, "label": "no", "prediction": "yes"}]
    assert confident_errors([judged(bare)], most=20) == []
    assert [entry["row"] for entry in confident_errors([judged(bare), judged(CLASSES)], most=20)] == [6, 8]


def test_each_label_of_a_row_is_a_decision() -> None:
    rows = judged(LABELS)[["label", "prediction", "confidence"]].to_numpy().tolist()
    assert rows == [["red", "not red", pytest.approx(0.7)], ["not big", "big", 0.9], ["not old", "not old", 0.8]]
    assert len(judged([{"id": 0, "label": ["red"], "prediction": ["big"]}])) == 2, "an earlier run kept no probability"


def test_each_token_is_a_decision_shown_among_its_neighbours() -> None:
    rows = judged([{**TOKENS[0], "confidence": [0.9, 0.7, None]}])
    assert rows["text"].tolist() == ["[in] New York", "in [New] York", "in New [York]"]
    assert rows["confidence"].tolist()[:2] == [0.9, 0.7] and numpy.isnan(rows["confidence"].iloc[2])
    (error,) = confident_errors([rows], most=20)
    assert (error["row"], error["label"], error["answer"]) == (1, "B-x", "O")


def test_tables_by_class() -> None:
    no, yes = table_by_class(CLASSES)
    assert (no["label"], no["precision"], no["recall"], no["support"]) == ("no", 0.5, 0.5, 2)
    assert (yes["precision"], yes["recall"], yes["f1"]) == (0.0, 0.0, 0.0)
    never = table_by_class([{"label": "a", "prediction": "b"}])
    assert [(row["precision"], row["recall"]) for row in never] == [(None, 0.0), (0.0, None)]
    town = {"label": "x", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert table_by_class(TOKENS) == [town]
    right = [{**TOKENS[0], "predicted": TOKENS[0]["tags"]}, {**TOKENS[0]}]
    assert table_by_class(right) == [{"label": "x", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}]


def test_numbers_by_the_mean_over_runs() -> None:
    runs = [[{"id": 0, "line": 2, "label": 1.0, "prediction": answer}] for answer in (2.0, 4.0)]
    (row,) = largest_errors([judged(run) for run in runs], most=20)
    assert (row["row"], row["answer"], row["off by"]) == (2, 3.0, 2.0)
