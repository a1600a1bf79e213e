"""One picture a method: training and validation loss over the steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib
from matplotlib.figure import Figure

from bilora.artifacts.scored_on import numbers_in

SMOOTHING = 20
"""Steps over which the training loss is averaged; a single batch's loss says little."""


def read_losses(metrics_file: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Return ``(step, loss)`` of the training batches, without penalty, and of the validations of a run.

    Args:
        metrics_file: A run's ``metrics.jsonl``.
    """
    lines = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "lower_loss" in line]
    losses = [(line["step"], line.get("lower_task_loss", line["lower_loss"])) for line in steps]
    # A step that was skipped has none.
    training = [(step, loss) for step, loss in losses if loss is not None]
    seen = [(line["step"], numbers["loss"]) for line in lines if (numbers := numbers_in(line)) is not None]
    return training, [(step, loss) for step, loss in seen if loss is not None]


def smoothed(points: Sequence[tuple[int, float]], *, over: int = SMOOTHING) -> list[tuple[int, float]]:
    """Return each point's mean with the ``over - 1`` points before it.

    Example:
        >>> smoothed([(1, 2.0), (2, 4.0), (3, 6.0)], over=2)
        [(1, 2.0), (2, 3.0), (3, 5.0)]
    """
    values = [value for _, value in points]
    return [(step, mean(values[max(0, end - over) : end])) for end, (step, _) in enumerate(points, start=1)]


def plot_losses(metrics_files: Sequence[Path], *, title: str, path: Path) -> None:
    """Draw both losses of every seed of a method and save the picture as PNG.

    Args:
        metrics_files: One ``metrics.jsonl`` a seed.
        title: What stands above the picture.
        path: The PNG to write.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for index, file in enumerate(metrics_files):
        training, validation = read_losses(file)
        first = index == 0
        axes.plot(*_columns(smoothed(training)), color=colours[0], alpha=0.8, label="training" if first else None)
        axes.plot(*_columns(validation), color=colours[3], alpha=0.8, marker="o", label="validation" if first else None)
    axes.set(title=title, xlabel="lower step", ylabel="loss")
    axes.set_ylim(bottom=0.0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
