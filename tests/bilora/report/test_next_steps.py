"""The rules of what to do next, each at values on both sides of it."""

import dataclasses

import pytest
from reported_methods import LORA, against

from bilora.report.measured import ROWS, Difference, Measured
from bilora.report.next_steps import ClassFinding, Findings, next_steps, times_as_many


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


def test_the_best_of_several_is_to_be_run_again() -> None:
    worse, best = dataclasses.replace(against(0.02, 0.01, 0.03), label="other"), against(0.05, 0.01, 0.09)
    assert said("the best of 2 methods was picked", Findings(), [LORA, worse, best])
    assert not said("with new seeds", Findings(), [LORA, best])
