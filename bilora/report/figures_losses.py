"""Losses of both levels and of the rows that are scored, and what the two differ by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from bilora.artifacts.scored_on import UPPER, VALIDATION, in_words
from bilora.report.figure_style import Drawing, colours, legend_below, panels, style
from bilora.report.loss_plot import SMOOTHING, smoothed
from bilora.report.read_run import ReadRun

Points = list[tuple[float, float]]
Runs = Mapping[str, Sequence[ReadRun]]
"""Runs by label; those of a label differ in their seed."""

CURVES: dict[str, tuple[str, Callable[[ReadRun], Points]]] = {
    "lower loss (D1)": ("#0072B2", lambda run: smoothed_losses(run, "lower")),
    "upper loss (D2)": ("#E69F00", lambda run: smoothed_losses(run, "upper")),
    "validation loss": ("#D55E00", lambda run: scored_points(run, "loss", kind=VALIDATION)),
    "loss on all of D2": ("#009E73", lambda run: scored_points(run, "loss", kind=UPPER)),
}
"""Colour and points of each curve; one without points in a run is not drawn."""

DOTTED = ("validation loss", "loss on all of D2")


def smoothed_losses(run: ReadRun, level: str) -> Points:
    """Return ``(step, loss)`` of a level's batches, penalties left out, each the mean of some before it."""
    key = f"{level}_loss"
    points = [(line["step"], line.get(f"{level}_task_loss", line[key])) for line in run.steps if key in line]
    # The upper level steps more seldom: as many steps of the run are averaged, not as many numbers.
    gap = max(1, round(len(run.steps) / max(1, len(points))))
    return [(float(step), value) for step, value in smoothed(_known(points), over=max(1, SMOOTHING // gap))]


def validation_points(run: ReadRun, metric: str) -> Points:
    """Return ``(step, value)`` of each validation that has one; where D2 is watched, those are of D2."""
    points = [(line["step"], line[run.scored_on].get(metric)) for line in run.validations]
    return [(float(step), value) for step, value in _known(points)]


def scored_points(run: ReadRun, metric: str, *, kind: str) -> Points:
    """Return the same of a run that was scored on rows of that kind; none of another."""
    return validation_points(run, metric) if run.scored_on == kind else []


def kinds_of(runs: Runs) -> set[str]:
    """Return what rows the numbers of the runs are of."""
    return {run.scored_on for own in runs.values() for run in own}


def in_seconds(run: ReadRun, points: Points) -> Points:
    """Return the points with the seconds of their steps in place of the steps, where they are known."""
    return [(run.times[int(step)], value) for step, value in points if int(step) in run.times]


def loss_curves(runs: Runs, *, seconds: bool) -> Drawing:
    """Draw all three losses, a panel a method, a line a seed.

    Args:
        runs: The runs.
        seconds: Whether over seconds in place of steps.
    """
    with style():
        figure, axes = panels(len(runs))
        for place, (label, own) in zip(axes, runs.items(), strict=True):
            place.set_title(label)
            for name, (colour, points_of) in CURVES.items():
                _draw_seeds(place, own, points_of, colour=colour, name=name, seconds=seconds)
        for place in axes:
            place.set_xlabel("seconds" if seconds else "lower step")
        axes[0].set_ylabel("loss")
        axes[0].set_ylim(0.0, _cut(runs))
        _legend_of_all(figure, axes)
    over = "seconds" if seconds else "steps"
    caption = (
        f"Loss over {over}, a line a seed. Training losses are means over {SMOOTHING} steps, without penalties; "
        "single-level methods train on all rows, which stand as lower loss. AdaLoRA's holds PEFT's regularizer; the "
        f"panels end at one and a half times the largest loss on {in_words(kinds_of(runs))}."
    )
    return Drawing(f"losses-over-{over}", f"Losses over {over}", caption, figure)


def _cut(runs: Runs) -> float | None:
    """Return where panels end, so that a loss of another size leaves the others legible; None without validations."""
    losses = [value for own in runs.values() for run in own for _, value in validation_points(run, "loss")]
    return 1.5 * max(losses) if losses else None


def score_curves(runs: Runs, metric: str) -> Drawing:
    """Draw the score of all methods over steps and over seconds: mean over seeds, and deviation."""
    kinds = kinds_of(runs)
    return _overlay(
        runs,
        lambda run: validation_points(run, metric),
        name="score",
        title=f"Validation {metric}" if kinds == {VALIDATION} else f"{metric} on D2" if kinds == {UPPER} else metric,
        axis=metric,
        caption=f"{metric} on {in_words(kinds)}: mean over seeds, with the sample deviation as a band.",
    )


def gap_curves(runs: Runs) -> Drawing | None:
    """Draw validation loss less training loss of all methods; None where no rows were held out."""
    if VALIDATION not in kinds_of(runs):
        return None
    drawing = _overlay(
        runs,
        gap_points,
        name="gap",
        title="Generalisation gap",
        axis="validation loss - training loss",
        caption=(
            f"Validation loss less the lower level's loss (mean of the {SMOOTHING} steps before): mean over seeds, "
            "with the sample deviation as a band. Above zero, the method fits its training rows better than new ones. "
            "AdaLoRA's training loss holds PEFT's regularizer; compare its gap in the table."
        ),
    )
    cut = _cut(runs)
    for place in drawing.figure.axes:
        low, high = place.get_ylim()
        place.set_ylim(low if cut is None else max(low, -cut / 3), high)
    return drawing


def gap_points(run: ReadRun) -> Points:
    """Return ``(step, validation loss - training loss)`` of each validation."""
    training, points = dict(smoothed_losses(run, "lower")), scored_points(run, "loss", kind=VALIDATION)
    return [(step, value - training[step]) for step, value in points if step in training]


def _overlay(
    runs: Runs, points_of: Callable[[ReadRun], Points], *, name: str, title: str, axis: str, caption: str
) -> Drawing:
    with style():
        figure, (left, right) = panels(2, width=4.4, share=False)
        for label, colour in colours(list(runs)).items():
            per_seed = [points_of(run) for run in runs[label]]
            in_time = [in_seconds(run, points) for run, points in zip(runs[label], per_seed, strict=True)]
            _draw_mean(left, per_seed, label=label, colour=colour)
            _draw_mean(right, in_time, label=label, colour=colour)
        left.set(xlabel="lower step", ylabel=axis)
        right.set(xlabel="seconds, mean over seeds")
        right.sharey(left)
        _legend_of_all(figure, [left])
    return Drawing(name, title, caption, figure)


def _draw_seeds(
    place: Any,
    runs: Sequence[ReadRun],
    points_of: Callable[[ReadRun], Points],
    *,
    colour: str,
    name: str,
    seconds: bool,
) -> None:
    named = False
    for run in runs:
        points = in_seconds(run, points_of(run)) if seconds else points_of(run)
        if not points:
            continue
        marker = "o" if name in DOTTED else None
        style_of = {"color": colour, "alpha": 0.85 if len(runs) == 1 else 0.6, "linewidth": 1.1, "markersize": 3}
        place.plot(*zip(*points, strict=True), marker=marker, label=None if named else name, **style_of)
        named = True


def _draw_mean(place: Any, per_seed: Sequence[Points], *, label: str, colour: Any) -> None:
    """Draw the mean of the seeds' points, the first with the first; seeds that stopped early end the line there."""
    columns = list(zip(*(points for points in per_seed if points), strict=False))
    if not columns:
        return
    across = [mean(x for x, _ in column) for column in columns]
    middle = [mean(y for _, y in column) for column in columns]
    place.plot(across, middle, color=colour, label=label, marker="o", markersize=3, linewidth=1.3)
    if len(columns[0]) > 1:
        spread = [stdev(y for _, y in column) for column in columns]
        low, high = ([m + sign * d for m, d in zip(middle, spread, strict=True)] for sign in (-1, 1))
        place.fill_between(across, low, high, color=colour, alpha=0.12, linewidth=0)


def _legend_of_all(figure: Any, axes: Sequence[Any]) -> None:
    """Put a legend below, of the panel that has most curves."""
    fullest = max(axes, key=lambda place: len(place.get_legend_handles_labels()[1]))
    if fullest.get_legend_handles_labels()[1]:
        legend_below(figure, fullest)


def _known(points: Sequence[tuple[int, float | None]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if value is not None]
