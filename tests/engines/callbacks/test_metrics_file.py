"""metrics.jsonl: what each line holds, and that any JSON reader takes it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.files import MetricsFile
from bilora.files.formats import finite_or_null

STEP = {"stage", "step", "lower_loss", "lower_gradient_norm", "lower_learning_rates"}
UPPER_STEP = {
    "upper_step",
    "upper_loss",
    "hypergradient_norm",
    "direct_norm",
    "implicit_norm",
    "upper_learning_rates",
}


def strict(line: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def lines(path: Path) -> list[dict[str, Any]]:
    return [strict(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_keys_and_order_of_the_lines(make_engine: Callable[..., BilevelEngine], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    engine = make_engine(
        steps=3, callbacks=[MetricsFile(path)], validate=lambda: {"loss": 0.5, "f1": None}, validate_every=2
    )
    engine.run()
    first, second, validation, third, last = lines(path)
    assert set(first) == set(third) == STEP
    assert set(second) == STEP | UPPER_STEP
    assert validation == {"stage": "single", "step": 2, "validation": {"loss": 0.5, "f1": None}}
    assert last == {"stage": "single", "step": 3, "validation": {"loss": 0.5, "f1": None}}
    assert [first["step"], second["step"], second["upper_step"], third["step"]] == [1, 2, 1, 3]


def test_numbers_are_those_of_the_records(fit_pair: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fitted = fit_pair(callbacks=[MetricsFile(path)], hypergradient="darts")
    written = lines(path)
    assert len(written) == len(fitted.records.steps) == 8
    for line, record in zip(written, fitted.records.steps, strict=True):
        assert line["lower_loss"] == record.loss
        assert line["lower_gradient_norm"] == record.gradient_norm
        assert line["lower_learning_rates"] == list(record.learning_rates)
        if record.upper is not None:
            assert line["upper_loss"] == record.upper.loss
            assert line["hypergradient_norm"] == record.upper.hypergradient_norm > 0
            assert line["direct_norm"] == record.upper.direct_norm > 0
            assert line["implicit_norm"] == record.upper.implicit_norm > 0
            assert line["upper_learning_rates"] == list(record.upper.learning_rates)


def test_parts_of_the_loss_have_their_level_in_their_name(tmp_path: Path, fit_adapter: Callable[..., Any]) -> None:
    path = tmp_path / "metrics.jsonl"
    fit_adapter("bilora", formulation="binary", callbacks=[MetricsFile(path)])
    first, second = lines(path)[:2]
    assert set(first) == STEP | {"lower_task_loss", "lower_penalty"}
    assert set(second) == set(first) | UPPER_STEP | {"upper_task_loss", "upper_penalty"}
    assert second["lower_loss"] == pytest.approx(second["lower_task_loss"] + second["lower_penalty"], rel=1e-6)
    assert second["upper_loss"] == pytest.approx(second["upper_task_loss"] + second["upper_penalty"], rel=1e-6)


def test_not_finite_is_written_as_null(make_engine: Callable[..., BilevelEngine], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "none": None, "one": 1.0}
    make_engine(single=True, steps=1, callbacks=[MetricsFile(path)], validate=lambda: metrics).run()
    assert lines(path)[-1]["validation"] == {"nan": None, "inf": None, "minus": None, "none": None, "one": 1.0}


def test_only_every_so_many_steps_but_every_upper_step(
    make_engine: Callable[..., BilevelEngine], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.jsonl"
    make_engine(steps=9, callbacks=[MetricsFile(path, every=3)]).run()
    assert [line["step"] for line in lines(path)] == [2, 3, 4, 6, 8, 9]


def test_an_existing_file_is_refused_and_kept(make_engine: Callable[..., BilevelEngine], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("kept\n", encoding="utf-8")
    engine = make_engine(callbacks=[MetricsFile(path)])
    with pytest.raises(FileExistsError, match=r"metrics\.jsonl"):
        engine.run()
    assert engine.step == 0
    assert path.read_text(encoding="utf-8") == "kept\n"


def test_lines_are_on_the_disk_before_the_run_ends(make_engine: Callable[..., BilevelEngine], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    seen: list[int] = []

    def validate() -> dict[str, float | None]:
        seen.append(len(lines(path)))
        return {}

    make_engine(single=True, steps=3, callbacks=[MetricsFile(path)], validate=validate, validate_every=1).run()
    assert seen == [1, 3, 5]


def test_the_file_is_closed_also_when_the_run_fails(make_engine: Callable[..., BilevelEngine], tmp_path: Path) -> None:
    def validate() -> NoReturn:
        raise OSError("no disk")

    writer = MetricsFile(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="no disk"):
        make_engine(callbacks=[writer], validate=validate).run()
    with pytest.raises(ValueError, match="closed file"):
        writer._write({})


def test_nested_values() -> None:
    value = {"a": [1, math.nan, (math.inf, "x")], "b": {"c": -math.inf, "d": True, "e": None}}
    assert finite_or_null(value) == {"a": [1, None, [None, "x"]], "b": {"c": None, "d": True, "e": None}}
