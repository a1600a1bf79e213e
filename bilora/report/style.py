"""How all figures look, and how they are written."""

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bilora.files.formats import write_whole

# Eight that colour-blind readers can tell apart (Okabe and Ito), none of them as light as the page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")

SETTINGS = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": ".4",
    "grid.color": ".9",
    "legend.frameon": False,
    # Names of labels and methods are words, also with a dollar in them.
    "text.parse_math": False,
    # Drawn letters look alike wherever the page is opened; a fixed salt gives the same bytes every time.
    "svg.fonttype": "path",
    "svg.hashsalt": "bilora",
}


@dataclass(frozen=True)
class Drawing:
    """A figure of a report: its file name without a suffix, heading, caption and picture."""

    name: str
    title: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """Return the figure as an SVG element."""
        with style():
            buffer = io.StringIO()
            # Without the date and the version of matplotlib: the same runs give the same bytes.
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        # The lines before the element name a DTD on the net, which the page must not ask for.
        return text[text.index("<svg") :]

    def write_png(self, path: Path) -> None:
        """Write the figure as PNG."""
        drawn = io.BytesIO()
        with style():
            self.figure.savefig(drawn, dpi=130)
        write_whole(path, drawn.getvalue())


@contextmanager
def style() -> Iterator[None]:
    """Draw in the common style, whatever the process has set."""
    # seaborn sets its theme for the whole process, whose other figures may be the user's.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        seaborn.set_theme(context="paper", style="whitegrid", rc=SETTINGS)
        yield


def panels(
    count: int, *, width: float = 3.1, height: float | None = None, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` equal panels, four per row, and their axes; sizes are in inches."""
    columns = min(4, count)
    rows = -(-count // columns)
    height = 0.72 * width if height is None else height
    figure = Figure(figsize=(max(width * columns, 4.6), max(height * rows, 2.0)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    for empty in grid.flat[count:]:
        empty.set_axis_off()
    for axes in grid.flat[:count]:
        # The last row may be shorter than the one above it, so that no row can leave its numbers to the next.
        axes.xaxis.set_tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def palette(labels: Iterable[str]) -> dict[str, Any]:
    """Return one colour per label; the same labels in the same order get the same colours in every figure."""
    names = list(dict.fromkeys(labels))
    colours = COLOURS if len(names) <= len(COLOURS) else seaborn.husl_palette(len(names), l=0.5)
    return dict(zip(names, colours, strict=False))


def legend_below(figure: Figure, colours: Mapping[str, Any]) -> None:
    """Put one legend of the colours below all panels, at the left, where a narrow screen begins."""
    lines = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
    figure.legend(lines, list(colours), loc="outside lower left", ncols=min(4, len(lines)))
