"""Numbers on rows that nothing has seen, and numbers on D2: never under one name."""

import pytest

from bilora.artifacts.scored_on import UPPER, VALIDATION, WHOLE_D2, in_words, trainer_state


@pytest.mark.parametrize(
    ("kind", "prefix", "words"), [(VALIDATION, "eval", "the validation rows"), (UPPER, "d2", WHOLE_D2)]
)
def test_by_name(kind: str, prefix: str, words: str) -> None:
    step = {"step": 1, "lower_loss": 0.7, "lower_learning_rates": [0.1, 0.2], "lower_gradient_norm": 2.0}
    results = {"metric": "accuracy", "score": 0.5, "steps": 2, "best_step": 1}
    state = trainer_state([step, {"step": 1, kind: {"loss": 0.6}}], results)
    assert (state["best_global_step"], state["best_metric"], state["max_steps"]) == (1, 0.5, 2)
    assert state["log_history"][0] == {"step": 1, "loss": 0.7, "grad_norm": 2.0, "learning_rate": 0.2}
    assert state["log_history"][1] == {"step": 1, f"{prefix}_loss": 0.6}
    assert in_words({kind}) == words
