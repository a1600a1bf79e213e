"""Which candidate is chosen."""

from typing import Any

import pytest

from bilora.compare.choice import Choice, choose
from bilora.errors import DivergedError

SLOW, FAST = {"lower.learning_rate": 1e-3}, {"lower.learning_rate": 1e-2}


def record(candidate: dict[str, float], score: float | None, loss: float | None = 1.0, **more: Any) -> dict[str, Any]:
    row = {"score": score, "validation_loss": loss, "seconds": 4.0}
    return {"candidate": candidate, "failed": None, "greater_is_better": True, "row": row, **more}


def test_the_best_mean_over_seeds_is_chosen() -> None:
    records = [record(SLOW, 0.75), record(SLOW, 0.5), record(FAST, 0.5), record(FAST, 0.625)]
    choice = choose("a", [SLOW, FAST], records)
    assert choice.candidate == SLOW
    assert [trial["score"] for trial in choice.tried] == [0.625, 0.5625]
    assert choice.seconds == 4.0
    # Without trials the only candidate is taken.
    assert choose("a", [SLOW], []) == Choice(SLOW, [], None)


@pytest.mark.parametrize(
    ("slow", "fast", "greater_is_better"),
    [
        pytest.param((0.75, 1.0), (0.5, 1.0), False, id="a smaller score may be the better one"),
        pytest.param((0.5, 0.75), (0.5, 0.5), True, id="of equal scores the smaller loss decides"),
        pytest.param((None, 0.75), (None, 0.5), True, id="without any score the smaller loss decides"),
    ],
)
def test_the_other_is_chosen(slow: tuple[Any, Any], fast: tuple[Any, Any], greater_is_better: bool) -> None:
    records = [record(rate, *row, greater_is_better=greater_is_better) for rate, row in ((SLOW, slow), (FAST, fast))]
    assert choose("a", [SLOW, FAST], records).candidate == FAST


@pytest.mark.parametrize("other", [record(FAST, None), record(FAST, 0.9, None), record(FAST, 0.9, row=None)])
def test_a_candidate_without_a_score_is_never_chosen(other: dict[str, Any]) -> None:
    choice = choose("a", [FAST, SLOW], [other, record(FAST, 1.0), record(SLOW, 0.0)])
    assert choice.candidate == SLOW
    assert None in (choice.tried[0]["score"], choice.tried[0]["loss"])


def test_nothing_to_choose_from_is_told() -> None:
    with pytest.raises(DivergedError, match="entry 'a': every candidate diverged.*loss is nan"):
        choose("a", [SLOW], [record(SLOW, None, row=None, failed="loss is nan")])
