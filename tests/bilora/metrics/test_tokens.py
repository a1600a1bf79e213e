import itertools
import random

import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from bilora.metrics.metric import UndefinedMetricWarning
from bilora.metrics.tokens import entities, token_metric
from bilora.tasks.tokens.task import TokenTask

TASK = TokenTask("toy", ("O", "B-a", "I-a", "B-b", "I-b"))


def test_every_sequence_of_four_tags_against_its_definition() -> None:
    """By brute force: (x, i, j) is an entity when tag i is B-x, those up to j are I-x, and tag j is not."""
    assert (entities([]), entities(["O", "B-a-b", "I-a-b"])) == (set(), {("a-b", 1, 3)})
    for tags in itertools.product(["O", "B-a", "I-a", "B-b", "I-b"], repeat=4):
        padded = [*tags, "O"]
        expected = {
            (kind, start, end)
            for kind in "ab"
            for start in range(4)
            for end in range(start + 1, 5)
            if padded[start] == f"B-{kind}"
            and all(tag == f"I-{kind}" for tag in padded[start + 1 : end])
            and padded[end] != f"I-{kind}"
        }
        assert entities(tags) == expected, tags


def score(predictions: list[list[str]], references: list[list[str]]) -> dict[str, float | None]:
    return token_metric(TASK).compute(predictions=predictions, references=references)  # type: ignore[no-any-return]


def test_by_hand() -> None:
    """Predicted: a 0-2 right, b 3-4 of the wrong type, a 0-1 too short; missed: a 3-4 and a 0-2 of the second row."""
    values = score([["B-a", "I-a", "O", "B-b"], ["B-a", "O", "O"]], [["B-a", "I-a", "O", "B-a"], ["B-a", "I-a", "O"]])
    assert values == {
        "entity_f1": pytest.approx(2 * 1 / (3 + 3)),
        "entity_precision": pytest.approx(1 / 3),
        "entity_recall": pytest.approx(1 / 3),
        "token_accuracy": pytest.approx(5 / 7),
    }


def test_rows_do_not_run_into_each_other() -> None:
    assert score([["B-a"], ["I-a"]], [["B-a"], ["B-a"]])["entity_recall"] == 0.5


def test_against_scikit_learn_on_every_possible_span() -> None:
    """As a yes or no for each (row, type, start, end), which is what an exact match of spans means."""
    chance = random.Random(0)
    rows = [[chance.choice(TASK.label_names) for _ in range(6)] for _ in range(200)]
    others = [[tag if chance.random() < 0.8 else chance.choice(TASK.label_names) for tag in row] for row in rows]
    spans = [(kind, start, end) for kind in "ab" for start in range(6) for end in range(start + 1, 7)]
    ours = [span in entities(row) for row in others for span in spans]
    theirs = [span in entities(row) for row in rows for span in spans]
    values = score(others, rows)
    assert values["entity_f1"] == pytest.approx(f1_score(theirs, ours), rel=1e-12)
    assert values["entity_precision"] == pytest.approx(precision_score(theirs, ours), rel=1e-12)
    assert values["entity_recall"] == pytest.approx(recall_score(theirs, ours), rel=1e-12)
    assert values["token_accuracy"] == pytest.approx(accuracy_score(sum(rows, []), sum(others, [])), rel=1e-12)


@pytest.mark.parametrize(
    ("predicted", "tag", "values"),
    [("O", "B-a", [0.0, None, 0.0, 0.0]), ("B-a", "O", [0.0, 0.0, None, 0.0]), ("O", "O", [None, None, None, 1.0])],
)
def test_a_share_of_no_entity_is_undefined(predicted: str, tag: str, values: list[float | None]) -> None:
    with pytest.warns(UndefinedMetricWarning, match="entity_.* of toy is undefined: there is no entity"):
        assert list(score([[predicted]], [[tag]]).values()) == values


def test_other_tags_are_scored_one_by_one() -> None:
    metric = token_metric(TokenTask("speech", ("NOUN", "VERB")))
    assert metric.compute(predictions=[["NOUN", "VERB"]], references=[["NOUN", "NOUN"]]) == {"token_accuracy": 0.5}
