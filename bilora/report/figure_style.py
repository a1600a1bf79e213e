"""How all figures look, and how they are written."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

RATIO = 0.72
"""Height of a panel by its width."""

SETTINGS: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    # Names of labels and methods are words, also with a dollar in them.
    "text.parse_math": False,
    # Drawn letters look alike wherever the page is opened; a fixed salt gives the same bytes every time.
    "svg.fonttype": "path",
    "svg.hashsalt": "bilora",
}


@dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Args:
        name: Name of its file, without a suffix.
        title: Its heading.
        caption: What it shows and how to read it.
        figure: The figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """Return the figure as an SVG element."""
        with style():
            buffer = io.StringIO()
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        # What stands before names a DTD on the net, which nothing must ask for.
        return text[text.index("<svg") :]

    def write_png(self, folder: Path) -> Path:
        """Write the figure as PNG and return its path."""
        path = folder / f"{self.name}.png"
        with style():
            self.figure.savefig(path, dpi=130)
        return path


@contextmanager
def style() -> Iterator[None]:
    """Draw in the common style, whatever the process has set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def panels(count: int, *, columns: int = 4, width: float = 3.1, share: bool = True) -> tuple[Figure, list[Any]]:
    """Return a figure of equal panels in rows, and their axes.

    Args:
        count: Panels.
        columns: At most so many in a row.
        width: Of a panel, in inches.
        share: Whether all have the same axes.

    Example:
        >>> figure, axes = panels(5, columns=3)
        >>> len(axes)
        5
    """
    across = min(columns, count)
    down = -(-count // across)
    figure = Figure(figsize=(max(width * across, 4.6), max(width * RATIO * down, 2.6)), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=share, sharey=share)
    axes = list(grid.flat)
    for empty in axes[count:]:
        empty.set_axis_off()
    if share:
        # Panels are read one by one, and the last row may be shorter than the one above it.
        for place in axes[:count]:
            place.xaxis.set_tick_params(labelbottom=True)
    return figure, axes[:count]


def colours(labels: Sequence[str]) -> dict[str, Any]:
    """Return one colour a label; eight that colour-blind readers can tell apart, and then lighter ones.

    Example:
        >>> sorted(colours(["lora", "bilora"]))
        ['bilora', 'lora']
    """
    palette: list[Any] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31"]
    palette += [matplotlib.colormaps["tab20"](2 * index + 1) for index in range(10)]
    return {label: palette[index % len(palette)] for index, label in enumerate(labels)}


def legend_below(figure: Figure, axes: Any) -> None:
    """Put one legend, that of ``axes``, below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))))
