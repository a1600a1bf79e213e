"""What the optimizers of the two levels saw: hypergradients, their quality, learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import LogFormatter, NullFormatter

from bilora.report.figure_style import Drawing, colours, legend_below, panels, style
from bilora.report.read_run import ReadRun

Runs = Mapping[str, Sequence[ReadRun]]

NORMS = {"hypergradient_norm": "whole", "direct_norm": "direct part", "implicit_norm": "implicit part"}


def column(run: ReadRun, key: str) -> list[tuple[int, float]]:
    """Return ``(step, value)`` of the lines that have a value under ``key``."""
    return [(line["step"], line[key]) for line in run.steps if line.get(key) is not None]


def norm_curves(runs: Runs) -> Drawing | None:
    """Draw the norms of the hypergradient and its two parts, a panel a method; None without an upper level."""
    shown = {label: own for label, own in runs.items() if any(column(run, "hypergradient_norm") for run in own)}
    if not shown:
        return None
    with style():
        figure, axes = panels(len(shown))
        for place, (label, own) in zip(axes, shown.items(), strict=True):
            place.set_title(label)
            place.set_yscale("log")
            # Powers of ten as plain numbers: the common style reads no mathematics in texts.
            place.yaxis.set_major_formatter(LogFormatter())
            place.yaxis.set_minor_formatter(NullFormatter())
            place.set_xlabel("lower step")
            for (key, name), colour in zip(NORMS.items(), ("#000000", "#0072B2", "#D55E00"), strict=True):
                _draw(place, own, key, name=name, colour=colour)
        axes[0].set_ylabel("norm")
        legend_below(figure, axes[0])
    caption = (
        "Norm of the gradient of the upper level, before clipping, of its direct part d_E L2 and of its implicit part, "
        "a line a seed; a part that is exactly zero, as the implicit one of first_order, cannot be drawn."
    )
    return Drawing("hypergradient", "Hypergradient", caption, figure)


def cosine_curves(runs: Runs) -> Drawing | None:
    """Draw the cosine of the hypergradient to the exact one-step one; None where none was metered."""
    shown = {label: own for label, own in runs.items() if any(column(run, "meter_cosine") for run in own)}
    if not shown:
        return None
    with style():
        figure, (axes,) = panels(1, width=5.6)
        for label, colour in colours(list(runs)).items():
            _draw(axes, shown.get(label, ()), "meter_cosine", name=label, colour=colour, marker="o")
        axes.axhline(1.0, color="black", linewidth=0.6)
        axes.set(xlabel="lower step", ylabel="cosine")
        lowest = min(value for own in shown.values() for run in own for _, value in column(run, "meter_cosine"))
        axes.set_ylim(min(0.0, lowest) - 0.05, 1.05)
        legend_below(figure, axes)
    caption = "Cosine of the implicit part to the exact one-step one of the same batch and masks; 1 is exact."
    return Drawing("cosine", "Quality of the hypergradient", caption, figure)


def rate_curves(runs: Runs) -> Drawing:
    """Draw the learning rates of both levels, of the first seed of each method and the first param group."""
    with style():
        figure, (lower, upper) = panels(2, width=4.4, share=False)
        for index, (label, colour) in enumerate(colours(list(runs)).items()):
            for place, level in ((lower, "lower"), (upper, "upper")):
                key = f"{level}_learning_rates"
                points = [(line["step"], line[key][0]) for line in runs[label][0].steps if key in line]
                if points:
                    place.plot(
                        *zip(*points, strict=True), color=colour, label=label, linewidth=1.2 + 0.7 * (len(runs) - index)
                    )
        lower.set(title="lower level", xlabel="lower step", ylabel="learning rate")
        upper.set(title="upper level", xlabel="lower step")
        for place in (lower, upper):
            place.set_ylim(bottom=0.0)
        legend_below(figure, lower)
    caption = "Learning rates as the schedules gave them; equal ones lie on each other, the later methods thinner."
    return Drawing("learning-rates", "Learning rates", caption, figure)


def _draw(place: Any, runs: Sequence[ReadRun], key: str, *, name: str, colour: Any, marker: str | None = None) -> None:
    named = False
    for run in runs:
        points = [(step, value) for step, value in column(run, key) if value != 0.0]
        if points:
            place.plot(
                *zip(*points, strict=True),
                color=colour,
                alpha=0.8 if len(runs) == 1 else 0.5,
                linewidth=1.0,
                marker=marker,
                markersize=3,
                label=None if named else name,
            )
            named = True
