"""Scores on resampled rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

from bilora.compare.statistics import resampled_scores
from bilora.runs.results import read_predictions
from bilora.tasks.catalog import TASKS


def rows(answers: str) -> list[dict[str, str]]:
    names = {"1": "equivalent", "0": "not_equivalent"}
    return [{"label": "equivalent", "prediction": names[each]} for each in answers]


def test_spread_is_that_of_a_binomial() -> None:
    scores = resampled_scores(TASKS["mrpc"], rows("1110" * 50), draws=4000)
    assert scores is not None
    assert numpy.mean(scores) == pytest.approx(0.75, abs=0.002)
    assert numpy.std(scores) == pytest.approx((0.75 * 0.25 / 200) ** 0.5, rel=0.05)


def test_two_methods_are_scored_on_the_same_rows() -> None:
    first, second = (resampled_scores(TASKS["mrpc"], rows(each), draws=50) for each in ("1100", "0011"))
    assert first is not None
    assert second is not None
    assert numpy.add(first, second).tolist() == [1.0] * 50


def test_numbers_are_taken_as_they_are() -> None:
    pairs = [{"label": float(each), "prediction": -2.0 * each} for each in range(8)]
    scores = resampled_scores(TASKS["stsb"], pairs, draws=5)
    assert scores == pytest.approx([-1.0] * 5, abs=1e-12)


def test_an_undefined_score_gives_none() -> None:
    constant = [{"label": name, "prediction": "acceptable"} for name in ("acceptable", "unacceptable")]
    assert resampled_scores(TASKS["cola"], constant, draws=3) is None


def test_reads_what_a_run_wrote(tmp_path: Path) -> None:
    path = tmp_path / "predictions-validation.jsonl"
    path.write_text(json.dumps({"label": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_predictions(path) == [{"label": "a\u2028b"}]
