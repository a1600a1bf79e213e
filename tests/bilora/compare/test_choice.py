"""Which candidate is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from bilora.compare.choice import choose
from bilora.errors import DivergedError

SLOW, FAST = {"lower.learning_rate": 1e-3}, {"lower.learning_rate": 1e-2}


def record(candidate: dict[str, float], score: float | None, loss: float | None = 1.0, **own: Any) -> dict[str, Any]:
    row = {"score": score, "validation_loss": loss, "seconds": 4.0}
    return {"candidate": candidate, "failed": None, "greater_is_better": True, "row": row, **own}


def test_the_best_mean_over_seeds_is_chosen() -> None:
    records = [record(SLOW, 0.75), record(SLOW, 0.5), record(FAST, 0.5), record(FAST, 0.625)]
    found = choose("a", [SLOW, FAST], records)
    assert found.candidate == SLOW
    assert [each["score"] for each in found.tried] == [0.625, 0.5625]
    assert found.seconds == 4.0


def test_a_smaller_one_may_be_the_better_one() -> None:
    records = [record(SLOW, 0.75, greater_is_better=False), record(FAST, 0.5, greater_is_better=False)]
    assert choose("a", [SLOW, FAST], records).candidate == FAST


def test_of_equal_scores_the_smaller_loss_decides() -> None:
    assert choose("a", [SLOW, FAST], [record(SLOW, 0.5, 0.75), record(FAST, 0.5, 0.5)]).candidate == FAST


@pytest.mark.parametrize("other", [record(FAST, None), record(FAST, 0.9, None), record(FAST, 0.9, row=None)])
def test_a_candidate_without_a_score_is_never_chosen(other: dict[str, Any]) -> None:
    found = choose("a", [FAST, SLOW], [other, record(FAST, 1.0), record(SLOW, 0.0)])
    assert found.candidate == SLOW
    assert None in (found.tried[0]["score"], found.tried[0]["loss"])


def test_where_no_score_is_defined_the_smaller_loss_decides() -> None:
    found = choose("a", [SLOW, FAST], [record(SLOW, None, 0.75), record(FAST, None, 0.5)])
    assert found.candidate == FAST


def test_nothing_to_choose_from_is_told() -> None:
    with pytest.raises(DivergedError, match="entry 'a': every candidate diverged.*loss is nan"):
        choose("a", [SLOW], [record(SLOW, None, row=None, failed="loss is nan")])


def test_without_trials_the_only_candidate_is_taken() -> None:
    found = choose("a", [SLOW], [])
    assert (found.candidate, found.tried, found.seconds) == (SLOW, [], None)
