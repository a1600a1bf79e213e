"""What the study's report says of results whose differences, costs and gaps are known."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy
import pytest
from programs import imported
from scipy import stats
from tracked_files import ROOT

protocols, runs, study_jobs, study_findings, study_report = map(
    imported, ("study_protocol", "study_runs", "study_jobs", "study_findings", "study_report")
)
STUDY = protocols.read_protocol(ROOT / "benchmarks" / "configs" / "study.yaml")
# Two settings whose score is the accuracy, and two seeds.
SMALL = dataclasses.replace(
    STUDY, seeds=[0, 1], settings={name: STUDY.settings[name] for name in ("sst2", "sst2_flips")}
)
LABELS = numpy.arange(100) % 2


def line(job: Any, right: int, *, seconds: float, upper: float | None = None) -> dict[str, Any]:
    """Return the line of a training that has the first ``right`` of a hundred rows right."""
    answers = numpy.where(numpy.arange(100) < right, LABELS, 1 - LABELS)
    test = {"metrics": {"accuracy": right / 100}, "loss": 1 - right / 100, "calibration": 0.1}
    found = {"job": job.name, "setting": job.setting, "method": job.method, "seed": job.seed, "failed": None}
    found |= {"test": {**test, "answers": runs.pack(answers.tolist())}, "cpu": {"fit": seconds}, "versions": {"x": "1"}}
    return found if upper is None else {**found, "upper": {"metrics": {"accuracy": upper}, "loss": 1.0}}


def all_lines() -> list[dict[str, Any]]:
    """Return a study in which the cell 4 has the best D2, the cell 9 the best test rows, and ours 90 right."""
    lines = [
        {"labels_of": setting, "labels": runs.pack(LABELS.tolist()), "names": ["negative", "positive"]}
        for setting in SMALL.settings
    ]
    done: dict[str, Any] = {}
    assert SMALL.grid is not None
    cells = SMALL.grid.cells
    while left := [job for job in study_jobs.jobs(SMALL, done) if job.name not in done]:
        for job in left:
            if job.method == "lora_d1":
                place = cells.index((job.run[0][1], job.run[1][1]))
                right, upper = 60 + (place == 9), 0.5 + 0.1 * (place == 4)
                done[job.name] = line(job, right, seconds=8.0, upper=upper)
            elif job.method == "lora":
                place = cells.index((job.run[0][1], job.run[1][1]))
                done[job.name] = line(job, {4: 80, 9: 85}.get(place, 70), seconds=10.0)
            else:
                done[job.name] = line(job, 90 - job.seed, seconds=29.0)
    return lines + list(done.values())


@pytest.fixture(scope="module")
def findings() -> Any:
    return study_findings.Findings(SMALL, all_lines())


def test_grid_and_oracle_are_the_cells_that_d2_and_the_test_rows_chose(findings: Any) -> None:
    scores = {
        label: sorted({round(findings.score(of), 6) for of in row.lines.values()})
        for label, row in findings.rows.items()
    }
    assert (scores["grid"], scores["oracle"], scores["lora_1e-3"]) == ([80.0], [85.0], [70.0])
    assert scores["self_tuned"] == [89.0, 90.0]
    assert len(findings.rows["grid"].lines) == 4


def test_costs_are_cpu_times_in_lora_runs_and_a_search_pays_for_its_cells(findings: Any) -> None:
    costs = {label: study_findings.cost(findings, row) for label, row in findings.rows.items()}
    assert costs["self_tuned"] == pytest.approx(2.9)
    assert costs["grid"] == pytest.approx((12 * 8.0 + 10.0) / 10.0)
    assert costs["random search"] == pytest.approx((3 * 8.0 + 10.0) / 10.0)
    assert study_findings.cost(findings, findings.grid_of(1)) == pytest.approx(1.0)
    assert study_findings.cost(findings, findings.grid_of(2)) == pytest.approx(2.6)


def test_machines_without_bf16_have_scores_and_no_costs() -> None:
    slow = [{**of, "bf16": "in fp32", "cpu": {"fit": 1e6}} if of.get("seed") == 1 else of for of in all_lines()]
    mixed, fast = study_findings.Findings(SMALL, slow), study_findings.Findings(SMALL, all_lines())
    for label in ("lora_1e-3", "self_tuned", "grid"):
        assert len(mixed.rows[label].lines) == len(fast.rows[label].lines)
        assert study_findings.cost(mixed, mixed.rows[label]) == study_findings.cost(fast, fast.rows[label])
    every = [{**of, "bf16": "in fp32"} for of in all_lines()]
    none = study_findings.Findings(SMALL, every)
    assert study_report.cost_cell(none, none.rows["self_tuned"]) == study_report.NOT_DONE


def test_a_difference_has_the_mean_of_its_pairs_and_the_spread_of_the_rows_that_differ(findings: Any) -> None:
    ours, grid = findings.rows["self_tuned"], findings.rows["grid"]
    compared = study_findings.compare(findings, ours, grid, findings.main_settings)
    assert (compared.pairs, compared.mean, compared.better) == (4, pytest.approx(9.5), 4)
    # All the four are above zero: two of sixteen patterns of signs are as far.
    assert compared.p_value == pytest.approx(2 / 16)
    # Ten rows of a hundred differ, nine with the other seed, and both settings have the same draws of rows.
    expected = stats.binom.ppf([0.025, 0.975], 100, 0.095)
    assert compared.interval == pytest.approx(tuple(expected), abs=2.0)


def test_the_section_says_what_was_asked_for_and_what_came(findings: Any) -> None:
    text = study_report.section(findings, "python benchmarks/run_study.py --report")
    assert f"sha256 `{STUDY.sha256}`" in text
    assert "and 0 of those that can be named by now are not; 0 diverged." in text
    assert "| grid | mean at least +0.0, no setting below -1.5 | +9.50, sst2 +9.5 (4 pairs) | yes |" in text
    assert "| lora_1e-3 | mean at least +2.0, p < 0.01 | +19.50, p 0.12 (4 pairs) | no |" in text
    assert "| sst2 | 0.003, 15 | 0.0003, 5 |" in text


def test_what_is_missing_is_shown_as_missing(findings: Any) -> None:
    lines = all_lines()
    gone = [of for of in lines if of.get("method") == "self_tuned" and of["seed"] == 1 and of["setting"] == "sst2"]
    gone += [of for of in lines if of.get("method") == "lora_d1" and of["setting"] == "sst2_flips"][:1]
    some = study_findings.Findings(SMALL, [of for of in lines if of not in gone])
    text = study_report.section(some, "")
    # The cells of the grid are not all there, so that neither it nor the oracle can be named.
    (flips,) = (row for row in text.splitlines() if row.startswith("| sst2_flips (accuracy)"))
    (clean,) = (row for row in text.splitlines() if row.startswith("| sst2 (accuracy)"))
    assert flips.count(f" {study_report.NOT_DONE} ") >= 2
    assert "90.0 (1/2)" in clean
    assert "2 of those that can be named by now are not" in text
    empty = study_report.section(study_findings.Findings(SMALL, []), "")
    assert "0 trainings are done" in empty and "No training of self_tuned is done" in empty


def test_the_curve_has_a_point_per_grid_and_one_of_ours(findings: Any, tmp_path: Path) -> None:
    drawing = study_report.curve(findings)
    (axes,) = drawing.figure.axes
    drawn = {legend.get_text() for legend in axes.get_legend().get_texts()}
    assert {"grids", "self_tuned", "random search"} <= drawn
    (grids, *_) = [line for line in axes.get_lines() if len(line.get_xdata()) == 5]
    # Grids of one to four cells lack the best one, which is the fifth.
    assert list(grids.get_ydata()) == [70.0, 70.0, 70.0, 80.0, 80.0]
    assert list(grids.get_xdata()) == pytest.approx([1.0, 2.6, 4.2, 7.4, 10.6])
    assert study_report.write_curve(findings, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert not study_report.write_curve(study_findings.Findings(SMALL, []), tmp_path / "none.png")
