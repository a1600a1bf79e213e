"""What runs end with: their answers to the rows that are scored, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy

from bilora.artifacts.scored_on import in_words
from bilora.report.figure_style import Drawing, colours, panels, style
from bilora.report.read_run import ReadRun

Runs = Mapping[str, Sequence[ReadRun]]
MOST_CLASSES = 20
"""Classes that a confusion matrix can be read with."""


def answers(runs: Runs) -> Drawing | None:
    """Draw confusion matrices of classes, or scatter plots of numbers; None where no predictions were kept."""
    shown = {label: [run for run in own if run.predictions] for label, own in runs.items()}
    shown = {label: own for label, own in shown.items() if own}
    if not shown:
        return None
    first = next(iter(shown.values()))[0].predictions[0]["label"]
    return _scatter(shown) if isinstance(first, float | int) else _confusion(shown)


def costs(runs: Runs) -> Drawing | None:
    """Draw training time and peak memory of the methods, a dot a seed; None before any run has ended."""
    ended = {label: [run.results for run in own if run.results] for label, own in runs.items()}
    ended = {label: own for label, own in ended.items() if own}
    if not ended:
        return None
    with style():
        figure, axes = panels(2, width=4.4, share=False)
        figure.set_figheight(max(2.0, 0.9 + 0.3 * len(ended)))
        for place, (key, name) in zip(
            axes, (("seconds", "seconds"), ("peak_memory_mb", "peak memory, MiB")), strict=True
        ):
            for row, (label, colour) in enumerate(colours(list(ended)).items()):
                values = [each[key] for each in ended[label]]
                place.barh(row, mean(values), color=colour, alpha=0.75, height=0.62)
                place.plot(values, [row] * len(values), "o", color="black", markersize=2.5)
            place.set_xlabel(name)
            place.set_yticks(range(len(ended)), list(ended))
            place.invert_yaxis()
            place.grid(visible=False, axis="y")
        axes[1].set_yticklabels([])
    caption = "Training time, validations included, and peak memory: mean over seeds, and a dot a seed."
    return Drawing("costs", "Time and memory", caption, figure)


def confusion(predictions: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> numpy.ndarray[Any, Any]:
    """Return how often each class (row) was answered with each class (column).

    Example:
        >>> pairs = [{"label": "no", "prediction": "yes"}, {"label": "yes", "prediction": "yes"}]
        >>> confusion(pairs, ["no", "yes"]).tolist()
        [[0, 1], [0, 1]]
    """
    places = {name: index for index, name in enumerate(classes)}
    counts = numpy.zeros((len(classes), len(classes)), dtype=numpy.int64)
    for each in predictions:
        counts[places[each["label"]], places[each["prediction"]]] += 1
    return counts


def _confusion(runs: Runs) -> Drawing | None:
    rows = [row for own in runs.values() for run in own for row in run.predictions]
    classes = sorted({str(row[key]) for row in rows for key in ("label", "prediction")})
    if len(classes) > MOST_CLASSES:
        return None
    with style():
        figure, axes = panels(len(runs), width=max(2.7, 0.55 * len(classes) + 1.4), share=False)
        figure.set_figheight(max(2.4, 0.42 * len(classes) + 1.5) * -(-len(runs) // 4))
        for place, (label, own) in zip(axes, runs.items(), strict=True):
            counts = confusion([row for run in own for row in run.predictions], classes)
            _matrix(place, counts, classes)
            place.set_title(label)
    rows_of = _rows_of(runs)
    caption = f"How each class (row) of {rows_of} was answered (column): shares of the class, over all seeds."
    return Drawing("confusion", "Confusion matrices", caption, figure)


def _rows_of(runs: Runs) -> str:
    return in_words({run.scored_on for own in runs.values() for run in own})


def _matrix(place: Any, counts: numpy.ndarray[Any, Any], classes: Sequence[str]) -> None:
    shares = counts / numpy.maximum(1, counts.sum(axis=1, keepdims=True))
    place.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for (row, column), share in numpy.ndenumerate(shares):
        place.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.55 else "black")
    names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    place.set_xticks(range(len(classes)), names, rotation=30, ha="right")
    place.set_yticks(range(len(classes)), names)
    place.set(xlabel="answer", ylabel="label")
    place.grid(visible=False)
    place.spines[:].set_visible(False)


def _scatter(runs: Runs) -> Drawing:
    with style():
        figure, axes = panels(len(runs), width=2.9)
        figure.set_figheight(2.7 * -(-len(runs) // 4))
        for place, (label, own) in zip(axes, runs.items(), strict=True):
            pairs = [(row["label"], row["prediction"]) for row in own[0].predictions]
            place.plot(*zip(*pairs, strict=True), "o", markersize=2, alpha=0.35, markeredgewidth=0, color="#0072B2")
            ends = [min(wanted for wanted, _ in pairs), max(wanted for wanted, _ in pairs)]
            place.plot(ends, ends, color="black", linewidth=0.8)
            place.set(title=f"{label}, seed {own[0].seed}", xlabel="label")
        axes[0].set_ylabel("prediction")
    rows_of = _rows_of(runs)
    caption = f"Predictions beside the labels of {rows_of}, first seed of each method; the line is where both agree."
    return Drawing("scatter", "Predictions", caption, figure)
