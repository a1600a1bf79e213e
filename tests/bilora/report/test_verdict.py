"""The rules of the verdict, each at values on both sides of it."""

import dataclasses
from typing import Any

import pytest
from reported_methods import LORA, against

from bilora.report.measured import Difference, Measured
from bilora.report.verdict import beats_chance, to_take, verdict


def test_a_better_method_is_named_with_how_much_how_sure_and_at_what_cost() -> None:
    assert verdict([LORA, against(0.05, 0.01, 0.09, peak_memory_mb=1500.0)]) == (
        "bilora is better than lora: accuracy 0.850 against 0.800, a difference of +0.050 (95% interval +0.010 to "
        "+0.090 over seeds and rows; p = 0.01 over seeds), at 2.0 times the training time and 1.5 times the memory."
    )


@pytest.mark.parametrize(
    ("method", "begins", "taken"),
    [
        (against(0.05, 0.01, 0.09), "bilora is better than lora", "bilora"),
        (against(0.05, 0.01, 0.09, p_value=0.049), "bilora is better", "bilora"),
        (against(0.05, 0.01, 0.09, p_value=0.05), "bilora is probably better", "bilora"),
        (against(0.05, 0.01, 0.09, p_value=None), "bilora is better", "bilora"),
        (against(0.05, 0.0, 0.1), "No difference between bilora and lora can be told", "lora"),
        (against(-0.05, -0.1, 0.0), "No difference between bilora and lora can be told", "lora"),
        (against(-0.05, -0.09, -0.01), "Stay with lora, which is better than bilora", "lora"),
        (against(-0.05, -0.09, -0.01, p_value=0.2), "Stay with lora, which is probably better", "lora"),
        # Of a loss, less is better.
        (against(-0.05, -0.09, -0.01, greater_is_better=False), "bilora is better than lora", "bilora"),
        (against(0.05, 0.01, 0.09, greater_is_better=False), "Stay with lora", "lora"),
    ],
)
def test_a_difference_is_told_where_its_interval_leaves_out_zero(method: Measured, begins: str, taken: str) -> None:
    assert verdict([LORA, method]).startswith(begins)
    chosen = to_take([LORA, method])
    assert chosen is not None and chosen.label == taken


def test_of_two_that_cannot_be_told_apart_the_quicker_one_is_taken() -> None:
    quick = dataclasses.replace(against(-0.01, -0.05, 0.03), seconds=20.0)
    assert verdict([LORA, quick]).endswith("; take bilora, which trains in 20 s and not 40 s.")
    assert verdict([LORA, against(0.01, -0.05, 0.07)]).endswith("; take lora, which trains in 40 s and not 80 s.")
    assert verdict([LORA, dataclasses.replace(quick, seconds=None)]).endswith("; take lora.")


def test_what_cannot_be_compared_is_said() -> None:
    alone = dataclasses.replace(LORA, label="bilora", is_baseline=False)
    assert "can be compared with lora" in verdict([LORA, alone])
    unsure = dataclasses.replace(alone, difference=Difference(0.05, None, None))
    assert verdict([LORA, unsure]).startswith("Nothing says how sure the difference between bilora and lora is")
    unknown = dataclasses.replace(against(0.05, 0.01, 0.09), greater_is_better=None)
    assert "can be compared with lora" in verdict([LORA, unknown])
    assert verdict([]).startswith("No run has ended")
    assert verdict([dataclasses.replace(LORA, score=None)]).startswith("No accuracy is defined")


def test_the_best_of_several_is_named() -> None:
    worse = dataclasses.replace(against(0.02, 0.01, 0.03), label="other")
    methods = [LORA, worse, against(0.05, 0.01, 0.09)]
    assert verdict(methods).startswith("bilora is better than lora")
    lost = [LORA, *(dataclasses.replace(against(-d, -0.09, -0.01), label=str(d)) for d in (0.05, 0.06))]
    assert "better than 0.05, the best of the 2 others" in verdict(lost)


@pytest.mark.parametrize(
    ("score", "interval", "greater", "gains"),
    [
        (0.8, (0.71, 0.9), True, True),
        (0.8, (0.7, 0.9), True, False),
        (0.6, (0.5, 0.69), True, False),
        (0.8, None, True, True),
        (0.6, (0.5, 0.69), False, True),
    ],
)
def test_one_run_is_held_against_the_most_frequent_class(score: Any, interval: Any, greater: bool, gains: bool) -> None:
    method = Measured("lora", "accuracy", "validation", score, greater, interval=interval, rows=90)
    method = dataclasses.replace(method, chance=0.7, chance_class="yes")
    assert beats_chance(method) is gains
    text = verdict([method])
    assert text.startswith("No gain over the most frequent class can be told") is not gains
    assert "always answering “yes” gives 0.700" in text


def test_one_run_says_score_interval_rows_and_cost() -> None:
    method = dataclasses.replace(LORA, interval=(0.75, 0.85), rows=1200, seconds=600.0)
    assert verdict([method]) == (
        "lora reaches accuracy 0.800 (95% interval 0.750 to 0.850) on 1,200 validation rows, at the cost of 10 min of "
        "training and 1,000 MiB of memory."
    )
    assert "rows of D2, which it was trained on too" in verdict([dataclasses.replace(method, scored_on="d2")])
