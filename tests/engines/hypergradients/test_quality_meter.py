"""The quality meter: what it reads, when, and that it changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fingerprint import assert_same, fingerprint

from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.hypergradients.darts import Darts
from bilora.engines.hypergradients.quality_meter import MeterReading, QualityMeter, compare
from bilora.errors import SettingsError

Make = Callable[..., Any]


def test_exact_darts_measures_as_itself(make_transformer: Make) -> None:
    meter = QualityMeter(Darts(products="exact"), every=1)
    make_transformer("bert", dropout=0.1, hypergradient=meter).engine.run()
    assert meter.reading.cosine == pytest.approx(1.0, abs=1e-6)
    assert meter.reading.norm_ratio == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_finite_differences_measure_close_under_dropout(make_transformer: Make, name: str) -> None:
    meter = QualityMeter(Darts(finite_difference="central"), every=1)
    make_transformer(name, dropout=0.1, hypergradient=meter).engine.run()
    assert meter.reading.cosine >= 0.999


def test_scale_shows_in_the_norm_and_not_in_the_cosine(make_ridge: Make) -> None:
    for scale, longer in (("learning_rate", 1.0), ("one", 1 / 0.03)):
        meter = QualityMeter(Darts(finite_difference="central", scale=scale), every=1)
        make_ridge(meter, learning_rate=0.03).engine.run()
        assert meter.reading.cosine == pytest.approx(1.0, abs=1e-6)
        assert meter.reading.norm_ratio == pytest.approx(longer, rel=1e-6)


def test_readings_come_every_few_upper_steps_and_change_nothing(make_transformer: Make, tmp_path: Path) -> None:
    results = []
    for meter in (0, 2):
        file = tmp_path / f"{meter}.jsonl"
        problem = make_transformer("bert", dropout=0.1, steps=5, unroll=1, meter=meter, callbacks=[MetricsFile(file)])
        problem.upper.optimizer.param_groups[0]["lr"] = 0.1
        torch.manual_seed(3)
        problem.engine.run()
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        results.append((problem, [line for line in lines if "upper_step" in line]))
    (plain, lines), (metered, metered_lines) = results
    readings = {line["upper_step"]: line["meter_cosine"] for line in metered_lines if "meter_cosine" in line}
    assert list(readings) == [2, 4] and min(readings.values()) > 0.99
    assert [{k: v for k, v in line.items() if not k.startswith("meter")} for line in metered_lines] == lines
    assert_same(fingerprint(metered.model)["parameters"], fingerprint(plain.model)["parameters"])


def test_zero_terms_read_as_undefined() -> None:
    zero, one = (torch.zeros(2),), (torch.ones(2),)
    assert compare(zero, one) == MeterReading(cosine=None, norm_ratio=0.0)
    assert compare(one, zero) == MeterReading(cosine=None, norm_ratio=None)


def test_every_below_one_is_refused() -> None:
    with pytest.raises(SettingsError, match="meter is -1"):
        QualityMeter(Darts(), every=-1)
