"""What a run has learned on its upper level, in words and as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilora.report.outcomes import short
from bilora.report.read_run import ReadRun
from bilora.report.style import WIDEST, Drawing, style, wrapped
from bilora.runs.folder import plain_name

# Bars of a panel; of more numbers, the smallest and the largest are drawn.
MOST_BARS = 16
# Change of the mean value of a layer that is called a move.
MOVED = 0.005
# What is said by another key of the same file in fewer numbers.
IN_DETAIL = {"weight_decays": "decays"}


def learned_words(run: ReadRun) -> list[str]:
    """Return in words what a run has learned beside its adapter, and what became of its pseudo singular values."""
    words = [f"learned: {run.learned['words']}"] if run.learned.get("words") else []
    if len(run.values):
        first, last = (run.values[run.values["step"] == step] for step in (run.values["step"].min(), _last(run)))
        means = last.groupby("layer", sort=False)["value"].mean()
        moved = (means - first.groupby("layer", sort=False)["value"].mean()).abs()
        ended = f"ended between {last['value'].min():.2f} and {last['value'].max():.2f}"
        most = str(moved.idxmax())
        words.append(
            f"{len(last):,} pseudo singular values: began at {first['value'].mean():.2f} in the mean, {ended}, "
            f"{last['value'].mean():.2f} in the mean; "
            + (f"most moved those of {short(most)}, to {means[most]:.2f}" if moved[most] > MOVED else "no layer moved")
        )
    return words


def _last(run: ReadRun) -> int:
    return int(run.values["step"].max())


def learned_numbers(run: ReadRun) -> Drawing | None:
    """Draw the numbers that a run has learned beside its adapter; None where there are none."""
    shown = {
        key: value
        for key, value in run.learned.items()
        if _kind(value) and not (key in IN_DETAIL and run.learned.get(IN_DETAIL[key]))
    }
    if not shown:
        return None
    heights = [_height(value) for value in shown.values()]
    with style():
        figure = Figure(figsize=(WIDEST, sum(heights)), layout="constrained")
        axes = figure.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
        for panel, (key, value) in zip(axes, shown.items(), strict=True):
            PANELS[str(_kind(value))](panel, value)
            panel.set_title(key.replace("_", " "), loc="left")
    caption = f"{run.name}: the numbers that the upper level has learned on D2, the rows held back for it."
    if any(_kind(value) == "bars" and len(value) > MOST_BARS for value in shown.values()):
        caption += f" Of more than {MOST_BARS}, the smallest and the largest are drawn."
    name = f"learned-{plain_name(run.label)}-seed{run.seed}"
    return Drawing(name, "What the upper level has learned", caption, figure, section="learned")


def _kind(value: Any) -> str | None:
    if isinstance(value, Mapping) and value:
        inner = list(value.values())
        if all(map(_is_number, inner)):
            return "bars"
        if all(isinstance(row, Mapping) and row and all(map(_is_number, row.values())) for row in inner):
            return "matrix"
    if isinstance(value, list) and value and all(map(_is_number, value)):
        return "list"
    return "bars" if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _height(value: Any) -> float:
    kind = _kind(value)
    if kind == "bars":
        return 0.75 + 0.24 * min(MOST_BARS, len(value) if isinstance(value, Mapping) else 1)
    return 2.0 if kind == "list" else min(6.0, 1.2 + 0.3 * len(value))


def _bars(panel: Axes, value: Any) -> None:
    numbers = dict(value) if isinstance(value, Mapping) else {"": value}
    if len(numbers) > MOST_BARS:
        ordered = sorted(numbers, key=numbers.__getitem__)
        numbers = {name: numbers[name] for name in (*ordered[: MOST_BARS // 2], *ordered[-MOST_BARS // 2 :])}
    places = range(len(numbers))
    panel.barh(places, list(numbers.values()), color="#0072B2", alpha=0.75)
    panel.set_yticks(places, [wrapped(short(str(name)) if "." in str(name) else str(name), 2.0) for name in numbers])
    panel.invert_yaxis()
    for place, number in zip(places, numbers.values(), strict=True):
        panel.annotate(f"{number:.3g}", (number, place), xytext=(3, 0), textcoords="offset points", va="center")
    panel.margins(x=0.15)


def _matrix(panel: Axes, value: Mapping[str, Mapping[str, float]]) -> None:
    table = pandas.DataFrame(value).T
    few = len(table) <= 8
    look: dict[str, Any] = {"annot": few, "fmt": ".2f", "cmap": "Blues", "cbar": not few}
    seaborn.heatmap(table.astype(float), **look, ax=panel)
    panel.tick_params(axis="x", rotation=30)
    panel.tick_params(axis="y", rotation=0)


def _histogram(panel: Axes, value: Sequence[float]) -> None:
    seaborn.histplot(x=[float(number) for number in value], color="#0072B2", ax=panel)
    panel.set_ylabel("how many")


PANELS: dict[str, Any] = {"bars": _bars, "matrix": _matrix, "list": _histogram}
