"""The figures over the steps of runs: losses, scores, hypergradients, learning rates."""

from collections.abc import Sequence
from typing import Any

import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter

from bilora.artifacts.scored_on import UPPER, VALIDATION, in_words
from bilora.report.read_run import ReadRun
from bilora.report.style import WIDEST, Drawing, legend_below, palette, panels, style, wrapped

# Steps over which a training loss is averaged; a single batch's loss says little.
SMOOTHING = 20

TRAINING = {"lower loss (D1)": "#0072B2", "upper loss (D2)": "#E69F00"}
CURVES = {**TRAINING, "validation loss": "#D55E00", "loss on all of D2": "#009E73"}
NORMS = {"hypergradient_norm": "whole", "direct_norm": "direct part", "implicit_norm": "implicit part"}
NORM_COLOURS = dict(zip(NORMS.values(), ("#000000", "#0072B2", "#D55E00"), strict=True))


def by_label(runs: Sequence[ReadRun]) -> dict[str, list[ReadRun]]:
    """Return the runs of each label, which differ in their seed, in the order in which labels first appear."""
    labels = dict.fromkeys(run.label for run in runs)
    return {label: [run for run in runs if run.label == label] for label in labels}


def scored_rows(runs: Sequence[ReadRun]) -> str:
    """Return in words which rows the scores are of."""
    return in_words({run.scored_on for run in runs})


def points(run: ReadRun, *keys: str) -> pandas.DataFrame:
    """Return the rows that have a number under one of the keys, the first of which counts, as ``value``."""
    value = run.metrics.reindex(columns=list(keys)).astype(float).bfill(axis=1).iloc[:, 0]
    return run.metrics[["run", "label", "step", "seconds"]].assign(value=value).dropna(subset="value")


def smoothed(run: ReadRun, level: str) -> pandas.DataFrame:
    """Return the losses of a level's batches, penalties left out, each the mean of some before it."""
    table = points(run, f"{level}_task_loss", f"{level}_loss")
    # The upper level steps more seldom: as many steps of the run are averaged, not as many numbers.
    gap = max(1, round(len(points(run, "lower_loss")) / max(1, len(table))))
    return table.assign(value=table["value"].rolling(max(1, SMOOTHING // gap), min_periods=1).mean())


def loss_points(run: ReadRun) -> pandas.DataFrame:
    """Return the points of a run's four curves, named in the column ``curve``."""
    training = [smoothed(run, level) for level in ("lower", "upper")]
    parts = [*training, *(points(run, f"{rows}.loss") for rows in (VALIDATION, UPPER))]
    return pandas.concat([part.assign(curve=curve) for curve, part in zip(CURVES, parts, strict=True)])


def gap_points(run: ReadRun) -> pandas.DataFrame:
    """Return the validation loss less the training loss of each validation."""
    # Of two lines of one step the later one counts: a run that was cut off repeats the steps after its checkpoint.
    training = smoothed(run, "lower").drop_duplicates("step", keep="last").set_index("step")["value"]
    table = points(run, f"{VALIDATION}.loss")
    return table.assign(value=table["value"] - table["step"].map(training)).dropna(subset="value")


def loss_curves(runs: Sequence[ReadRun]) -> Drawing:
    """Draw all losses over steps, a panel per method, a line per seed."""
    table = pandas.concat([loss_points(run) for run in runs])
    with style():
        figure, axes = _panel_per_label(runs, "lower step", "loss")
        for label, panel in axes.items():
            rows = table[table["label"] == label]
            is_training = rows["curve"].isin(TRAINING)
            _draw_seeds(panel, rows[is_training], "step", hue="curve", colours=CURVES)
            # Losses on held-out rows are few, and have a dot each.
            _draw_seeds(panel, rows[~is_training], "step", hue="curve", colours=CURVES, marker="o")
            panel.set_ylim(0.0, _largest_shown(runs))
        legend_below(figure, {curve: CURVES[curve] for curve in CURVES if curve in set(table["curve"])})
    caption = (
        f"Loss over steps, a line per seed. Training losses are means over {SMOOTHING} steps, without penalties; "
        "single-level methods train on all rows, drawn as lower loss. AdaLoRA's holds PEFT's regularizer; "
        f"the panels end at one and a half times the largest loss on {scored_rows(runs)}."
    )
    return Drawing("losses", "Losses", caption, figure)


def score_curves(runs: Sequence[ReadRun], metric: str) -> Drawing:
    """Draw the score over steps, and of several methods over seconds too: mean over seeds, and deviation."""
    kinds = {run.scored_on for run in runs}
    title = f"Validation {metric}" if kinds == {VALIDATION} else f"{metric} on D2" if kinds == {UPPER} else metric
    caption = f"{metric} on {scored_rows(runs)}: mean over seeds, with the sample deviation as a band."
    tables = [points(run, f"{run.scored_on}.{metric}") for run in runs]
    # Of one method the second picture would be the first one again.
    over = ("step", "seconds") if len(by_label(runs)) > 1 and _is_timed(runs) else ("step",)
    return Drawing("score", title, caption, _means(runs, tables, metric, over=over))


def _is_timed(runs: Sequence[ReadRun]) -> bool:
    return any(run.metrics["seconds"].notna().any() for run in runs)


def gap_curves(runs: Sequence[ReadRun]) -> Drawing | None:
    """Draw validation loss less training loss of several methods; None where no rows were held out."""
    # Of one method, both losses stand in the picture of the losses.
    if len(by_label(runs)) == 1 or all(run.scored_on == UPPER for run in runs):
        return None
    figure = _means(runs, [gap_points(run) for run in runs], "validation - training loss", over=("step",))
    largest = _largest_shown(runs)
    for panel in figure.axes:
        # A training loss of another size, as with a regularizer in it, would press all other curves flat.
        panel.set_ylim(bottom=max(panel.get_ylim()[0], -largest / 3) if largest else None)
    caption = (
        f"Validation loss less the lower level's loss (mean of the {SMOOTHING} steps before): mean over seeds, "
        "with the sample deviation as a band. Above zero, the method fits its training rows better than new ones. "
        "AdaLoRA's training loss holds PEFT's regularizer; compare its gap in the table."
    )
    return Drawing("gap", "Generalisation gap", caption, figure)


def norm_curves(runs: Sequence[ReadRun]) -> Drawing | None:
    """Draw the norms of the hypergradient and its two parts, a panel per method; None without an upper level."""
    shown = [run for run in runs if len(points(run, "hypergradient_norm"))]
    if not shown:
        return None
    table = pandas.concat([points(run, key).assign(part=part) for run in shown for key, part in NORMS.items()])
    with style():
        figure, axes = _panel_per_label(shown, "lower step", "norm")
        for label, panel in axes.items():
            panel.set_yscale("log")
            # Powers of ten as plain numbers: the common style reads no mathematics in texts.
            panel.yaxis.set_major_formatter(LogFormatter())
            panel.yaxis.set_minor_formatter(NullFormatter())
            # On this scale zero is infinitely far down.
            rows = table[(table["label"] == label) & (table["value"] != 0.0)]
            _draw_seeds(panel, rows, "step", hue="part", colours=NORM_COLOURS)
        legend_below(figure, NORM_COLOURS)
    caption = (
        "Norm of the gradient of the upper level, before clipping, of its direct part d_E L2 and of its implicit part, "
        "a line per seed. A part that is exactly zero cannot be drawn, such as the implicit one of first_order."
    )
    return Drawing("hypergradient", "Hypergradient", caption, figure)


def cosine_curves(runs: Sequence[ReadRun]) -> Drawing | None:
    """Draw the cosine of the hypergradient to the exact one-step one; None where none was metered."""
    table = pandas.concat([points(run, "meter_cosine") for run in runs])
    if table.empty:
        return None
    with style():
        figure, (panel,) = panels(1, width=WIDEST, height=2.6)
        colours = palette(by_label(runs))
        # What an exact implicit part would have.
        panel.axhline(1.0, color="black", linewidth=0.6)
        _draw_seeds(panel, table, "step", hue="label", colours=colours, marker="o")
        panel.set(xlabel="lower step", ylabel="cosine", ylim=(min(0.0, table["value"].min()) - 0.05, 1.05))
        legend_below(figure, {label: colours[label] for label in table["label"].unique()})
    caption = "Cosine of the implicit part to the exact one-step one of the same batch and masks; 1 is exact."
    return Drawing("cosine", "Quality of the hypergradient", caption, figure)


def rate_curves(runs: Sequence[ReadRun]) -> Drawing:
    """Draw the learning rates of both levels, of the first seed of each method and the first param group."""
    colours = palette(by_label(runs))
    # Equal rates lie on each other: the first method is the widest line, and the last one the thinnest on top.
    widths = {label: 1.2 + 0.7 * (len(colours) - index) for index, label in enumerate(colours)}
    with style():
        levels = [
            level for level in ("lower", "upper") if any(f"{level}_learning_rates" in run.metrics for run in runs)
        ]
        figure, axes = panels(max(1, len(levels)), share=False)
        for panel, level in zip(axes, levels, strict=False):
            for label, (run, *_) in by_label(runs).items():
                rates = run.metrics.get(f"{level}_learning_rates")
                if rates is not None:
                    # A list per step, of which .str takes the first; a validation's line has none.
                    x, y = run.metrics["step"], rates.str[0].astype(float)
                    seaborn.lineplot(x=x, y=y, color=colours[label], linewidth=widths[label], legend=False, ax=panel)
            panel.set(title=f"{level} level", xlabel="lower step", ylabel="learning rate")
            panel.set_ylim(bottom=0.0)
        legend_below(figure, colours)
    caption = "Learning rates as the schedules gave them; equal ones lie on each other, the later methods thinner."
    return Drawing("learning-rates", "Learning rates", caption, figure)


def _panel_per_label(runs: Sequence[ReadRun], x: str, y: str) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure with a titled panel per label."""
    labels = by_label(runs)
    figure, axes = panels(len(labels))
    for label, panel in zip(labels, axes, strict=True):
        # Of one method the page says which it is.
        panel.set(title=wrapped(label, WIDEST / 2) if len(labels) > 1 else "", xlabel=x)
    axes[0].set_ylabel(y)
    return figure, dict(zip(labels, axes, strict=True))


def _largest_shown(runs: Sequence[ReadRun]) -> float | None:
    """Return where panels end, so that a loss of another size leaves the others legible; None without validations."""
    largest = pandas.concat([points(run, f"{run.scored_on}.loss") for run in runs])["value"].max()
    return None if pandas.isna(largest) else 1.5 * float(largest)


def _draw_seeds(
    panel: Axes, table: pandas.DataFrame, x: str, *, hue: str, colours: dict[str, Any], marker: str | None = None
) -> None:
    """Draw a line per run and per colour."""
    if len(table):
        # Several seeds lie on each other, and the one below should show.
        alpha = 0.85 if table["run"].nunique() == 1 else 0.55
        look = {"linewidth": 1.1, "marker": marker, "markersize": 4, "alpha": alpha, "legend": False}
        lines = {"x": x, "y": "value", "hue": hue, "palette": colours, "units": "run", "estimator": None}
        seaborn.lineplot(table, **lines, **look, ax=panel)


UNITS = {"step": "lower step", "seconds": "seconds, mean over seeds"}


def _means(runs: Sequence[ReadRun], tables: Sequence[pandas.DataFrame], name: str, *, over: Sequence[str]) -> Figure:
    """Draw mean and deviation over the seeds of each method, a panel per axis that they are drawn over."""
    colours = palette(by_label(runs))
    with style():
        figure, axes = panels(len(over), width=WIDEST, height=2.2, share=False)
        for panel, x in zip(axes, over, strict=True):
            table = pandas.concat(tables, ignore_index=True).dropna(subset=x)
            table["turn"] = table.groupby("run").cumcount()
            turns = table.groupby(["label", "turn"])
            # Seeds differ in their seconds: the first points are averaged with the first, and so on.
            table[x] = turns[x].transform("mean")
            # A mean over the seeds that are left would jump where one stopped early: the line ends there.
            table = table[turns["run"].transform("size") == table.groupby("label")["run"].transform("nunique")]
            lines = {"x": x, "y": "value", "hue": "label", "palette": colours, "errorbar": "sd", "legend": False}
            look = {"marker": "o", "markersize": 4, "linewidth": 1.3, "err_kws": {"alpha": 0.12, "linewidth": 0}}
            if len(table):
                seaborn.lineplot(table, **lines, **look, ax=panel)
            panel.set(xlabel=UNITS[x], ylabel=name)
        # Not when they are made: then seconds and steps would share their axis too.
        for panel in axes[1:]:
            panel.sharey(axes[0])
        legend_below(figure, colours)
    return figure
