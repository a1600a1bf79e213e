"""What the report on trusted rows says of results whose scores, leads and gaps are known."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from programs import imported
from tracked_files import ROOT

protocols, study_runs, study_jobs, study_findings, report = map(
    imported, ("trusted_protocol", "study_runs", "study_jobs", "study_findings", "trusted_report")
)
STUDY = protocols.read_trusted(ROOT / "benchmarks" / "configs" / "trusted.yaml")
LABELS = numpy.arange(200) % 2


def line(job: Any, right: float, seconds: float = 10.0) -> dict[str, Any]:
    """Return the line of a training that has so many of a hundred rows right, the first ones."""
    answers = numpy.where(numpy.arange(200) < 2 * right, LABELS, 1 - LABELS)
    metric = STUDY.settings[job.setting].metrics[0]
    resampled = study_runs.resampled(answers, LABELS, "accuracy")
    test = {"metrics": {metric: right / 100}, "loss": 1.0, "resampled": study_runs.pack(resampled.tolist())}
    found = {"job": job.name, "setting": job.setting, "method": job.method, "seed": job.seed, "failed": None}
    return {**found, "test": test, "cpu": {"fit": seconds}, "versions": {"x": "1"}}


def right_of(job: Any) -> float:
    """Return how many are right: gold_correction is the best rival, and mixed on one setting."""
    base = {"default": 79.0, "gold_correction": 80.0, "learned_noise": 83.0, "learned_sources": 84.0}
    base |= {"learned_classes": 81.0, "true_labels": 90.0, "learned_loss": 72.0}
    if job.method == "mixed" and job.setting == "emotion_rare":
        return 83.0
    return base.get(job.method, 70.0)


def lines() -> list[dict[str, Any]]:
    jobs = study_jobs.jobs(STUDY, {})
    return [line(job, right_of(job) + job.seed, 50.0 if job.method == "default" else 10.0) for job in jobs]


def text_of(some: list[dict[str, Any]], protocol: Any = STUDY) -> str:
    found: str = report.section(protocol, study_findings.Findings(protocol, some), "python benchmarks/run_trusted.py")
    return found


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Draw less often, which takes nearly all of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bilora.runs.statistics.SEED_DRAWS", 20)
        patch.setattr("bilora.runs.statistics.DRAWS", 500)
        yield


@pytest.fixture(scope="module")
def text(few_draws: None) -> str:
    return text_of(lines())


def row(text: str, *starts: str) -> list[str]:
    """Return the cells of the one row that begins so."""
    (found,) = [one for one in text.splitlines() if one.startswith("| " + " | ".join(starts) + " |")]
    return [cell.strip() for cell in found.split("|")[1:-1]]


def test_scores_means_and_costs_are_those_of_the_lines(text: str) -> None:
    cells = row(text, "default", "ours")
    assert cells[2:-2] == ["80.0 ± 0.6"] * 8
    assert cells[-2:] == ["80.0", "5.0"]
    # In two settings alone: no mean of eight.
    assert row(text, "learned_classes", "ours")[2:] == [""] * 6 + ["82.0 ± 0.6"] * 2 + ["–", "1.0"]
    assert "0 of 339 trainings are missing; 0 diverged." in text


def test_the_default_is_held_against_the_best_rival_on_the_mean_and_in_each_setting(text: str) -> None:
    assert row(text, "default", "on the mean at most 0.5 below the best rival")[2:] == [
        "gold_correction",
        "-1.00",
        "no",
    ]
    worst = row(text, "default", "in no setting 2 below the best rival there")
    assert worst[2:] == ["mixed", "-4.00 in emotion_rare", "no"]


def test_the_ceiling_and_ours_are_no_rivals() -> None:
    findings = study_findings.Findings(STUDY, lines())
    assert report.best_rival(STUDY, findings, ["sst2_flips"]) == "gold_correction"
    assert report.best_rival(STUDY, findings, ["emotion_rare"]) == "mixed"
    assert report.best_rival(STUDY, study_findings.Findings(STUDY, []), ["emotion_rare"]) is None


def test_enough_pairs_are_tested_by_wilcoxon_and_few_by_the_bootstrap(text: str) -> None:
    # Eighteen pairs of the same sign and size.
    ahead = row(text, "learned_noise", "ahead, p < 0.01", "gold_correction")
    assert ahead[3].startswith("+3.00, p ") and ahead[3].endswith("(Wilcoxon), 18 pairs") and ahead[4] == "yes"
    # Three pairs could give no p-value of Wilcoxon's below 0.25.
    few = row(text, "learned_sources", "ahead, p < 0.01", "gold_correction")
    assert few[3].startswith("+4.00, p ") and "(bootstrap), 3 pairs" in few[3] and few[4] == "yes"
    behind = row(text, "learned_loss", "ahead, p < 0.01", "label_smoothing")
    assert behind[4] == "yes"
    assert row(text, "learned_rows", "ahead, p < 0.01", "mixed")[4] == "no"


def test_a_line_that_is_surely_behind_is_not_ahead() -> None:
    compared = study_findings.Comparison(18, -3.0, (-4.0, -2.0), 1e-4, 0, ("x", -3.0), 1e-5, 1e-5)
    assert report.verdict(compared, 0.01) == (False, "p 0.0001 (Wilcoxon)")
    assert report.verdict(dataclasses.replace(compared, mean=3.0), 0.01)[0]
    alone = dataclasses.replace(compared, least_p_value=1.0, row_p_value=None)
    assert report.verdict(alone, 0.01) == (False, "no p: too few seeds")


def test_two_levels_lead_where_they_lead_most(text: str) -> None:
    lead = "in one setting 2 ahead of the best rival there"
    assert row(text, "learned_sources", lead)[2:] == ["gold_correction", "+4.00 in banking77_sources", "yes"]
    assert row(text, "learned_classes", lead)[2:] == ["gold_correction", "+1.00 in irony_rare", "no"]


def test_what_is_missing_is_counted_by_line_and_shown() -> None:
    some = [one for one in lines() if one["method"] != "setfit" and (one["method"], one["seed"]) != ("default", 2)]
    some[0] |= {"failed": "loss nan"}
    text = text_of(some)
    assert "32 of 339 trainings are missing: default 8, setfit 24; 1 diverged (" in text
    assert row(text, "setfit", "rival")[2:] == ["–"] * 10
    assert "(2/3)" in row(text, "default", "ours")[3]


def test_nothing_done_is_a_report_too() -> None:
    text = text_of([])
    assert "339 of 339 trainings are missing" in text and "No training of default is done" in text
