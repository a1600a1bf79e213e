"""The figures of the end of runs: their answers, their cost, and their pseudo singular values."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilora.metrics.calibration import Calibration, calibration
from bilora.metrics.multilabel import label_table
from bilora.report.figures import by_label, scored_rows
from bilora.report.read_run import ReadRun
from bilora.report.style import WIDEST, Drawing, legend_below, palette, panels, style, wrapped
from bilora.runs.folder import plain_name

# Classes that a confusion matrix can be read with.
MOST_CLASSES = 20

COSTS = {"seconds": "training time, seconds", "peak_memory_mb": "peak memory, MiB"}
# Parts of a layer's name that all layers of an encoder share.
SHORTENED = ("model", "encoder", "layer", "layers", "self", "h")


def costs(runs: Sequence[ReadRun]) -> Drawing | None:
    """Draw training time and peak memory of several methods, a dot per seed; None before two have ended."""
    table = pandas.DataFrame([{**run.results, "label": run.label} for run in runs if run.results])
    # Of one method, both stand in the table of scores.
    if table.empty or table["label"].nunique() == 1:
        return None
    colours, labels = palette(by_label(runs)), table["label"].unique()
    with style():
        # As long as users make them.
        names = [wrapped(label, 2.0) for label in labels]
        # All bars are of one height, for which the longest label decides.
        bar = 0.2 + 0.15 * max(1, *(name.count("\n") for name in names))
        figure, axes = panels(2, width=WIDEST, height=max(1.3, 0.6 + bar * len(names)), share=False)
        for panel, (key, name) in zip(axes, COSTS.items(), strict=True):
            where = {"x": key, "y": "label", "order": labels, "ax": panel}
            seaborn.barplot(table, **where, hue="label", palette=colours, errorbar=None, saturation=1, alpha=0.75)
            seaborn.stripplot(table, **where, color="black", size=3, jitter=False)
            panel.set(xlabel=name, ylabel="")
            panel.set_yticks(range(len(labels)), names)
    caption = "Training time, validations included, and peak memory: mean over seeds, and a dot per seed."
    return Drawing("costs", "Time and memory", caption, figure, section="answers")


def answers(runs: Sequence[ReadRun]) -> Drawing | None:
    """Draw confusion matrices of classes, scatter plots of numbers, or F1 by label; None where none were kept."""
    shown = [run for run in runs if len(run.predictions)]
    kinds = {type(value) for run in shown for key in ("label", "prediction") for value in run.predictions[key].tolist()}
    if kinds == {str}:
        return _confusion(shown)
    # Lists are labels of a row that may have several; None and texts beside lists belong to kinds with no picture.
    if kinds == {list}:
        return _labels(shown, palette(by_label(runs)))
    return _scatter(shown, palette(by_label(runs))) if kinds and kinds <= {int, float} else None


def _confusion(runs: Sequence[ReadRun]) -> Drawing | None:
    labels = {label: pandas.concat([run.predictions for run in same]) for label, same in by_label(runs).items()}
    # Of all methods, so that all matrices have the same rows.
    classes = sorted(set(pandas.concat(labels.values())[["label", "prediction"]].to_numpy().flat))
    if len(classes) > MOST_CLASSES:
        return None
    names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    with style():
        width, height = max(2.7, 0.55 * len(classes) + 1.4), max(2.4, 0.42 * len(classes) + 1.5)
        figure, axes = panels(len(labels), width=width, height=height, share=False)
        for panel, (label, rows) in zip(axes, labels.items(), strict=True):
            shares = pandas.crosstab(rows["label"], rows["prediction"], normalize="index")
            shares = shares.reindex(index=classes, columns=classes, fill_value=0.0)
            look = {"cmap": "Blues", "vmin": 0.0, "vmax": 1.0, "cbar": False, "annot": True, "fmt": ".2f"}
            seaborn.heatmap(shares, **look, xticklabels=names, yticklabels=names, square=True, ax=panel)
            panel.set(title=wrapped(label, width), xlabel="answer", ylabel="label")
            panel.set_xticklabels(panel.get_xticklabels(), rotation=30, ha="right")
            panel.tick_params(axis="y", rotation=0)
    caption = f"How each class (row) of {scored_rows(runs)} was answered (column): shares of the class, over all seeds."
    return Drawing("confusion", "Confusion matrices", caption, figure, section="answers")


def _labels(runs: Sequence[ReadRun], colours: Mapping[str, Any]) -> Drawing | None:
    columns = [(run, [run.predictions[key].tolist() for key in ("prediction", "label")]) for run in runs]
    names = sorted({name for _, both in columns for column in both for row in column for name in row})
    # With one label its bar alone says nothing that the score does not.
    if not 2 <= len(names) <= MOST_CLASSES:
        return None
    scores = []
    for run, both in columns:
        predicted, labels = ([[name in row for name in names] for row in column] for column in both)
        scores += [{**row, "method": run.label} for row in label_table(predicted, labels, names)]
    with style():
        figure, axes = panels(1, width=WIDEST, height=0.42 * len(names) + 1.4)
        look = {"errorbar": None, "saturation": 1, "alpha": 0.75, "palette": colours}
        seaborn.barplot(pandas.DataFrame(scores), x="f1", y="label", hue="method", **look, ax=axes[0])
        axes[0].set(xlim=(0, 1), xlabel="F1", ylabel="")
        axes[0].set_yticks(range(len(names)), [wrapped(name, 1.6) for name in names])
        if (legend := axes[0].get_legend()) is not None:
            legend.remove()  # it would lie on the bars
        legend_below(figure, {label: colours[label] for label in by_label(runs)})
    caption = f"F1 of each label on {scored_rows(runs)}: mean over seeds."
    return Drawing("labels", "Scores by label", caption, figure, section="answers")


def _scatter(runs: Sequence[ReadRun], colours: Mapping[str, Any]) -> Drawing:
    labels = by_label(runs)
    with style():
        figure, axes = panels(len(labels), height=2.4)
        for panel, (label, (run, *_)) in zip(axes, labels.items(), strict=True):
            look = {"s": 9, "alpha": 0.35, "linewidth": 0, "color": colours[label]}
            seaborn.scatterplot(run.predictions, x="label", y="prediction", **look, ax=panel)
            # The diagonal, from the smallest to the largest label.
            ends = run.predictions["label"].agg(["min", "max"])
            panel.plot(ends, ends, color="black", linewidth=0.8)
            panel.set(title=wrapped(f"{label}, seed {run.seed}", WIDEST / 2), xlabel="label", ylabel="")
        axes[0].set_ylabel("prediction")
    caption = (
        f"Predictions beside the labels of {scored_rows(runs)}, first seed of each method; on the line both agree."
    )
    return Drawing("scatter", "Predictions", caption, figure, section="answers")


def reliability(runs: Sequence[ReadRun]) -> Drawing | None:
    """Draw how often answers of each confidence are right, a line per method; None where no confidence was kept."""
    found = {label: calibrated for label, same in by_label(runs).items() if (calibrated := calibration_of(same))}
    if not found:
        return None
    colours = palette(by_label(runs))
    with style():
        figure, (panel,) = panels(1, width=WIDEST, height=3.4)
        # Where what is said is what is so.
        panel.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
        for label, of_label in found.items():
            sizes = [max(9.0, 160.0 * count / sum(of_label.counts)) for count in of_label.counts]
            panel.plot(of_label.confidence, of_label.right, color=colours[label], linewidth=1.3)
            panel.scatter(of_label.confidence, of_label.right, s=sizes, color=colours[label])
        panel.set(xlim=(0, 1.03), ylim=(-0.03, 1.03), xlabel="confidence of the answer", ylabel="share that is right")
        legend_below(figure, {label: colours[label] for label in found})
    errors = "; ".join(f"{label} {of_label.expected_error:.3f}" for label, of_label in found.items())
    caption = (
        f"How often answers are right, by their confidence, in ten equal bins; the larger a dot, the more answers. On "
        f"{scored_rows(runs)}, over all seeds. Below the dashed line the model is too sure. Expected calibration error "
        f"(mean distance to the line): {errors}."
    )
    return Drawing("reliability", "Calibration", caption, figure, section="answers")


def calibration_of(runs: Sequence[ReadRun]) -> Calibration | None:
    """Return the calibration of the decisions of some runs; None where no confidence was kept."""
    decisions = pandas.concat([run.judged for run in runs]).dropna(subset="confidence")
    return calibration(decisions["confidence"], decisions["label"] == decisions["prediction"])


def value_map(run: ReadRun) -> Drawing:
    """Draw every value of every layer over the steps of a run, which must have readings, as a heat map."""
    table = run.values.pivot(index=["layer", "term"], columns="step", values="value")
    # pivot sorts by name, which puts layer 10 before layer 2.
    table = table.reindex(run.values["layer"].unique(), level="layer")
    sizes = table.groupby(level="layer", sort=False).size()
    with style():
        figure, axes = _heat_map(table, label="value s", height=0.055)
        axes.set_yticks(sizes.cumsum() - sizes / 2, [short(layer) for layer in sizes.index])
        axes.hlines(sizes.cumsum()[:-1], *axes.get_xlim(), color="0.3", linewidth=0.6)
        axes.set(xlabel="lower step", ylabel="")
    caption = (
        f"{run.name}: the {sizes.max()} pseudo singular values s of each adapted layer over the steps, a row each. "
        "White rows were cut or, in a map of both signs, are zero."
    )
    return Drawing(
        f"values-{plain_name(run.label)}-seed{run.seed}", "Pseudo singular values", caption, figure, section="learned"
    )


def spectrum_map(run: ReadRun) -> Drawing:
    """Draw the magnitudes of each layer's terms, the largest first, and how many of them are kept."""
    table = run.spectrum.pivot(index="layer", columns="term", values="value")
    layers = run.spectrum.groupby("layer", sort=False)["kept"].agg(["first", "size"])
    with style():
        figure, axes = _heat_map(table.reindex(layers.index), label="magnitude |c| |P| |Q|", height=0.24)
        names = [f"{short(layer)}  {kept}/{rank}" for layer, kept, rank in layers.itertuples()]
        axes.set_yticks([row + 0.5 for row in range(len(names))], names)
        axes.vlines(layers["first"], range(len(names)), range(1, len(names) + 1), color="#D55E00", linewidth=2.2)
        axes.set(xlabel="rank-one term, the largest first", ylabel="")
    caption = f"{run.name}: the size of each rank-one term at the end, a row per layer; the kept terms end at the line."
    return Drawing(
        f"spectrum-{plain_name(run.label)}-seed{run.seed}", "Spectra and kept ranks", caption, figure, section="learned"
    )


def short(layer: str) -> str:
    """Return a layer's name without what all names of an encoder have in common."""
    return ".".join([part for part in layer.split(".") if part not in SHORTENED][-3:])


def _heat_map(table: pandas.DataFrame, *, label: str, height: float) -> tuple[Figure, Axes]:
    """Return a figure of a table in colours, each of its rows ``height`` inches high."""
    low, high = float(table.min(axis=None)), float(table.max(axis=None))
    limit = max(abs(low), abs(high)) or 1.0
    # Zero is the middle of a map of both signs, and else the lower end; but values that all stay near their start, as
    # those of softmax near one, would then all have the same colour.
    bottom = -limit if low < 0.0 else low if limit / 2.0 < low < limit else 0.0
    figure = Figure(figsize=(WIDEST, max(2.4, 0.9 + height * len(table))), layout="constrained")
    axes = figure.subplots()
    bar = {"label": label, "shrink": min(1.0, 2.2 / figure.get_figheight())}
    colours = {"cmap": "RdBu_r" if low < 0.0 else "viridis", "vmin": bottom, "vmax": limit, "cbar_kws": bar}
    # About ten columns are named, however many there are.
    seaborn.heatmap(
        table, **colours, xticklabels=-(-len(table.columns) // 10), yticklabels=False, rasterized=True, ax=axes
    )
    axes.tick_params(axis="x", rotation=0)
    return figure, axes
