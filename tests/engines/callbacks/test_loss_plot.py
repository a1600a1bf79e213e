"""The picture of both losses, and the numbers it is drawn from."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.axes
import pytest

from bilora.engines.callbacks.files import MetricsFile
from bilora.report.loss_plot import plot_losses, read_losses, smoothed


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def size_of_png(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_losses_of_a_run_are_those_of_its_records(fit_pair: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    script = iter([0.5, 0.25])
    fitted = fit_pair(
        callbacks=[MetricsFile(path)], validate=lambda: {"loss": next(script), "f1": None}, validate_every=4
    )
    training, validation = read_losses(path)
    assert training == [(record.step, record.loss) for record in fitted.records.steps]
    assert validation == [(4, 0.5), (8, 0.25)]


def test_the_penalty_is_left_out(tmp_path: Path) -> None:
    """Else the curves of methods with and without one could not be compared."""
    line = {"step": 1, "lower_loss": 3.0, "lower_task_loss": 2.0, "lower_penalty": 1.0}
    assert read_losses(write(tmp_path / "a.jsonl", line)) == ([(1, 2.0)], [])


@pytest.mark.parametrize(
    ("over", "values"), [(1, [4.0, 2.0, 0.0, 6.0]), (2, [4.0, 3.0, 1.0, 3.0]), (9, [4.0, 3.0, 2.0, 3.0])]
)
def test_smoothing_is_a_trailing_mean(over: int, values: list[float]) -> None:
    points = [(3, 4.0), (5, 2.0), (7, 0.0), (9, 6.0)]
    assert smoothed(points, over=over) == list(zip((3, 5, 7, 9), values, strict=True))


def test_picture_has_both_curves_of_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[int], list[float], str | None]] = []
    original = matplotlib.axes.Axes.plot

    def plot(self: Any, x: Any, y: Any, **style: Any) -> Any:
        drawn.append((x, y, style["label"]))
        return original(self, x, y, **style)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", plot)
    files = [
        write(
            tmp_path / f"{seed}.jsonl", {"step": 1, "lower_loss": seed}, {"step": 1, "validation": {"loss": seed + 5}}
        )
        for seed in (1.0, 2.0)
    ]
    plot_losses(files, title="bilora on mrpc", path=tmp_path / "loss.png")
    assert drawn == [
        ([1], [1.0], "training"),
        ([1], [6.0], "validation"),
        ([1], [2.0], None),
        ([1], [7.0], None),
    ]
    assert size_of_png(tmp_path / "loss.png") == (768, 480)


def test_a_loss_that_is_not_a_number_leaves_a_hole(tmp_path: Path) -> None:
    lines = [{"step": step, "validation": {"loss": loss}} for step, loss in ((1, 0.5), (2, None), (3, 0.25))]
    plot_losses([write(tmp_path / "a.jsonl", *lines)], title="", path=tmp_path / "loss.png")
    assert size_of_png(tmp_path / "loss.png") == (768, 480)
