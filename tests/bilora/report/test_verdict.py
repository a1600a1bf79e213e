"""The rules of the verdict, each at values on both sides of it."""

import dataclasses
from typing import Any

import pytest

from bilora.report.measured import ROWS, Difference, Measured
from bilora.report.verdict import ClassFinding, Findings, beats_chance, next_steps, times_as_many, to_take, verdict

LORA = Measured("lora", "accuracy", "validation", 0.8, seconds=40.0, peak_memory_mb=1000.0, is_baseline=True)


def against(mean: float, low: float, high: float, *, p_value: float | None = 0.01, **more: Any) -> Measured:
    """Return a method that is ``mean`` above the baseline, with an interval and a p-value."""
    difference = Difference(mean, (low, high), p_value, seeds=6)
    return Measured("bilora", "accuracy", "validation", 0.8 + mean, seconds=80.0, difference=difference, **more)


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


def test_the_best_of_several_is_named_and_to_be_run_again() -> None:
    worse = dataclasses.replace(against(0.02, 0.01, 0.03), label="other")
    methods = [LORA, worse, against(0.05, 0.01, 0.09)]
    assert verdict(methods).startswith("bilora is better than lora")
    again = [step for step in next_steps(methods, Findings()) if "with new seeds" in step]
    assert again and "the best of 2 methods" in again[0]
    assert not [step for step in next_steps([LORA, methods[2]], Findings()) if "with new seeds" in step]
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


@pytest.mark.parametrize(
    ("mean", "half", "times"), [(0.02, 0.04, 4), (0.02, 0.021, 2), (-0.01, 0.05, 25), (0.0, 1.0, 10_000)]
)
def test_an_interval_shrinks_with_the_root_of_the_rows(mean: float, half: float, times: int) -> None:
    assert times_as_many(Difference(mean, (mean - half, mean + half), None)) == times


def said(part: str, findings: Findings, methods: list[Measured] | None = None) -> bool:
    return any(part in step for step in next_steps(methods or [LORA], findings))


def test_seeds_and_rows_that_are_missing() -> None:
    assert said("takes about 4 times as many seeds and rows", Findings(), [LORA, against(0.02, -0.02, 0.06)])
    assert said("Leave it there", Findings(), [LORA, against(0.001, -0.1, 0.102)])
    one = dataclasses.replace(against(0.05, 0.01, 0.09), difference=Difference(0.05, (0.01, 0.09), 0.01, ROWS, ROWS))
    assert said("Run more seeds", Findings(), [LORA, one])
    assert not said("Run more seeds", Findings(), [LORA, against(0.05, 0.01, 0.09)])
    wide = dataclasses.replace(LORA, rows=100, interval=(0.74, 0.86))
    assert said("Score on more rows: with 100 the accuracy is known to ±0.060 only", Findings(), [wide])
    assert not said("Score on more rows", Findings(), [dataclasses.replace(wide, interval=(0.75, 0.85))])
    assert said("Hold rows out", Findings(), [dataclasses.replace(LORA, scored_on="d2")])
    assert not said("Hold rows out", Findings())


@pytest.mark.parametrize(
    ("train", "validation", "answer"),
    [
        (0.24, 0.5, "Label more training rows, which will help most"),
        (0.26, 0.5, "will help some"),
        (0.44, 0.5, "will help some"),
        (0.46, 0.5, "would change little"),
        (0.6, 0.5, "would change little"),
    ],
)
def test_more_training_rows_by_the_losses(train: float, validation: float, answer: str) -> None:
    answers = ("which will help most", "will help some", "would change little")
    found = [part for part in answers if said(part, Findings(train_loss=train, validation_loss=validation))]
    assert len(found) == 1 and found[0] in answer
    assert not any(said(part, Findings(train_loss=train)) for part in answers)


def test_longer_training_by_the_last_validation() -> None:
    assert said("Train longer", Findings(validations=[0.5, 0.6, 0.7]))
    assert not said("Train longer", Findings(validations=[0.5, 0.7, 0.7]))
    assert not said("Train longer", Findings(validations=[0.7]))


def test_classes_that_are_found_least_beyond_their_interval() -> None:
    weak = ClassFinding("praise", 30, 0.4, (0.25, 0.58), "bill")
    strong, rare = ClassFinding("bill", 99, 0.9, (0.8, 0.95)), ClassFinding("other", 9, 0.0, (0.0, 0.3))
    found = Findings(right=0.6, classes=[strong, weak, rare])
    assert said("found least: praise (40% of 30 rows, mostly taken for bill).", found)
    assert said("Hold out more rows of other (9)", found)
    assert not said("found least", dataclasses.replace(found, right=0.58))
    many = [ClassFinding(str(place), 30, 0.1 * place, (0.0, 0.5)) for place in range(5)]
    assert said(
        "0 (0% of 30 rows), 1 (10% of 30 rows), 2 (20% of 30 rows) and 2 more", Findings(right=0.6, classes=many)
    )


def test_trust_in_the_labels_and_in_the_probabilities() -> None:
    sure = Findings(answers=200, sure_errors=7, calibration_error=0.02, excess=0.01)
    assert said("7 of 200 answers contradict theirs with a confidence of 90% or more.", sure)
    assert said("can be taken at their word: they are off by 0.020", sure)
    off = dataclasses.replace(sure, calibration_error=0.051, excess=0.051)
    assert said("though the model is too sure in general", off)
    assert said("Do not use the probabilities as they are: they are off by 0.051 in the mean, mostly too high", off)
    assert said("mostly too low", dataclasses.replace(off, excess=-0.051))
    assert said("Nothing speaks against the labels", dataclasses.replace(sure, sure_errors=0))
    assert not said("probabilities", dataclasses.replace(sure, answers=99))
    assert said("label_issues.csv names 12 that are likely wrong", Findings(label_issues=12))
    assert next_steps([LORA], Findings()) == []
