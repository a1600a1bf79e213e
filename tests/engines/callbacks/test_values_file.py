"""values.jsonl: the singular values of every layer, at the steps that were asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bilora.adapter.spectrum import adapted_layers
from bilora.engines.callbacks.files import ValuesFile
from bilora.report.read_run import read_lines, read_run


class OfTheEngine(ValuesFile):
    """Takes the model of the engine; the fixture makes it together with the run."""

    def on_run_start(self, engine: Any) -> None:
        self.model = engine.lower_level.module
        super().on_run_start(engine)


@pytest.mark.parametrize("every", [3, None])
def test_readings_of_a_run(fit_adapter: Callable[..., Any], tmp_path: Path, every: int | None) -> None:
    path = tmp_path / "values.jsonl"
    writer = OfTheEngine(path, None, every=every)  # type: ignore[arg-type]
    fitted = fit_adapter("bilora", callbacks=[writer])
    steps = fitted.result.steps
    readings = {line["step"]: line["layers"] for line in read_lines(path)}
    assert list(readings) == [step for step in range(steps + 1) if step % (every or 1) == 0 or step == steps]
    layers = adapted_layers(writer.model, "default")
    assert list(readings[steps]) == list(layers)
    for name, layer in layers.items():
        torch.testing.assert_close(torch.tensor(readings[steps][name]), layer.singular_values("default").detach())
    assert readings[0] != readings[steps]


def test_the_later_line_of_a_step_counts(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: [bilora]\nseeds: [0]\n")
    (tmp_path / "metrics.jsonl").write_text("")
    readings = [(2, 1.0), (4, 3.0), (2, 2.0)]
    lines = [json.dumps({"step": step, "layers": {"q": [value]}}) + "\n" for step, value in readings]
    (tmp_path / "values.jsonl").write_text("".join(lines))
    assert read_run(tmp_path).values[["step", "layer", "term", "value"]].to_numpy().tolist() == [
        [2, "q", 1, 2.0],
        [4, "q", 1, 3.0],
    ]
