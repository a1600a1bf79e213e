"""The files of a run: what each line holds, that any JSON reader takes it, and how a run goes on with them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from bilora.adapter.spectrum import adapted_layers
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.files import MetricsFile, TimesFile, ValuesFile, read_times
from bilora.runs.statistics import read_validations

Make = Callable[..., BilevelEngine]

STEP = {"stage", "step", "lower_loss", "lower_gradient_norm", "lower_learning_rates"}
UPPER_STEP = {"upper_step", "upper_loss", "hypergradient_norm", "direct_norm", "implicit_norm", "upper_learning_rates"}


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_keys_and_order_of_the_lines(make_engine: Make, path: Path) -> None:
    """A number that is not finite is written as null."""
    metrics = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "none": None, "one": 1.0}
    make_engine(steps=3, callbacks=[MetricsFile(path)], validate=lambda: metrics, validate_every=2).run()
    first, second, validation, third, last = lines(path)
    assert set(first) == set(third) == STEP
    assert set(second) == STEP | UPPER_STEP
    written = {"nan": None, "inf": None, "minus": None, "none": None, "one": 1.0}
    for line, step in ((validation, 2), (last, 3)):
        assert line == {"stage": "single", "step": step, "validation": written}
    assert [first["step"], second["step"], second["upper_step"], third["step"]] == [1, 2, 1, 3]


def test_numbers_are_those_of_the_records(fit_pair: Callable[..., Any], path: Path) -> None:
    fitted = fit_pair(callbacks=[MetricsFile(path)], hypergradient="darts")
    written = lines(path)
    assert len(written) == len(fitted.records.steps) == 8
    for line, record in zip(written, fitted.records.steps, strict=True):
        assert (line["lower_loss"], line["lower_gradient_norm"]) == (record.loss, record.gradient_norm)
        assert line["lower_learning_rates"] == list(record.learning_rates)
        if record.upper is not None:
            for key in ("hypergradient_norm", "direct_norm", "implicit_norm"):
                assert line[key] == getattr(record.upper, key) > 0
            assert line["upper_loss"] == record.upper.loss
            assert line["upper_learning_rates"] == list(record.upper.learning_rates)


def test_parts_of_the_loss_have_their_level_in_their_name(path: Path, fit_adapter: Callable[..., Any]) -> None:
    fit_adapter("bilora", formulation="binary", callbacks=[MetricsFile(path)])
    first, second = lines(path)[:2]
    assert set(first) == STEP | {"lower_task_loss", "lower_penalty"}
    assert set(second) == set(first) | UPPER_STEP | {"upper_task_loss", "upper_penalty"}
    assert second["lower_loss"] == pytest.approx(second["lower_task_loss"] + second["lower_penalty"], rel=1e-6)
    assert second["upper_loss"] == pytest.approx(second["upper_task_loss"] + second["upper_penalty"], rel=1e-6)


def test_only_every_so_many_steps_but_every_upper_step(make_engine: Make, path: Path) -> None:
    make_engine(steps=9, callbacks=[MetricsFile(path, every=3)]).run()
    assert [line["step"] for line in lines(path)] == [2, 3, 4, 6, 8, 9]


def test_an_existing_file_is_refused_and_kept(make_engine: Make, path: Path) -> None:
    path.write_text("kept\n", encoding="utf-8")
    engine = make_engine(callbacks=[MetricsFile(path)])
    with pytest.raises(FileExistsError, match=r"metrics\.jsonl"):
        engine.run()
    assert engine.step == 0
    assert path.read_text(encoding="utf-8") == "kept\n"


def test_lines_are_on_the_disk_at_once_and_the_file_is_closed_when_the_run_fails(make_engine: Make, path: Path) -> None:
    seen: list[int] = []

    def validate() -> dict[str, float | None]:
        seen.append(len(lines(path)))
        if len(seen) == 3:
            raise OSError("no disk")
        return {}

    writer = MetricsFile(path)
    with pytest.raises(OSError, match="no disk"):
        make_engine(single=True, steps=3, callbacks=[writer], validate=validate, validate_every=1).run()
    assert seen == [1, 3, 5]
    with pytest.raises(ValueError, match="closed file"):
        writer._write({})


def test_times_rise_and_belong_to_steps(make_engine: Make, tmp_path: Path) -> None:
    scores = iter([0.5, 0.75, 0.5])
    files = [MetricsFile(tmp_path / "metrics.jsonl"), TimesFile(tmp_path / "times.jsonl")]
    make_engine(steps=5, callbacks=files, validate=lambda: {"f1": next(scores)}, validate_every=2).run()
    times = read_times(tmp_path / "times.jsonl")
    assert list(times) == [1, 2, 3, 4, 5]
    assert list(times.values()) == sorted(times.values())
    assert read_validations(tmp_path, "f1") == [(times[2], 0.5), (times[4], 0.75), (times[5], 0.5)]


def test_a_run_that_goes_on_adds_to_the_time_of_its_checkpoint(make_engine: Make, path: Path) -> None:
    lines = [json.dumps({"step": step, "seconds": 100.0 * step}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "sec', encoding="utf-8")
    writer = TimesFile(path)
    writer.load_state({"seconds": 150.0})
    make_engine(steps=2, callbacks=[writer]).run()
    times = read_times(path)
    assert times[3] == 300.0
    assert 150.0 < times[1] < times[2] <= writer.state()["seconds"] < 160.0


@pytest.mark.parametrize("every", [3, None])
def test_readings_of_a_run(fit_adapter: Callable[..., Any], path: Path, every: int | None) -> None:
    class OfTheEngine(ValuesFile):
        def on_run_start(self, engine: Any) -> None:
            self.model = engine.lower_level.module  # which the fixture makes together with the run
            super().on_run_start(engine)

    writer = OfTheEngine(path, None, every=every)  # type: ignore[arg-type]
    fitted = fit_adapter("bilora", callbacks=[writer])
    steps = fitted.result.steps
    readings = {line["step"]: line["layers"] for line in lines(path)}
    assert list(readings) == [step for step in range(steps + 1) if step % (every or 1) == 0 or step == steps]
    layers = adapted_layers(writer.model, "default")
    assert list(readings[steps]) == list(layers)
    for name, layer in layers.items():
        torch.testing.assert_close(torch.tensor(readings[steps][name]), layer.singular_values("default").detach())
    assert readings[0] != readings[steps]
