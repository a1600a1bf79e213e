"""How all figures look, and how they are written."""

import io
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
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


# Inches that fit on a phone with letters that can be read; two such figures stand beside each other on a desk.
WIDEST = 4.7
# Letters of a label that fit into an inch.
LETTERS = 11


@dataclass(frozen=True)
class Drawing:
    """A figure of a report: its file name without a suffix, heading, caption and picture."""

    name: str
    title: str
    caption: str
    figure: Figure
    section: str = "training"  # of the page: answers, learned or training

    @property
    def is_wide(self) -> bool:
        """Whether it needs the whole width of a page."""
        return bool(self.figure.get_figwidth() > WIDEST)

    def svg(self) -> str:
        """Return the figure as an SVG element."""
        with style():
            self._settle()
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
            self._settle()
            self.figure.savefig(drawn, dpi=130)
        write_whole(path, drawn.getvalue())

    def _settle(self) -> None:
        """Lay the figure out once: each saving would do it again, which takes half of its time."""
        if self.figure.get_layout_engine() is not None:
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the common style, whatever the process has set."""
    # seaborn sets its theme for the whole process, whose other figures may be the user's.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        seaborn.set_theme(context="paper", style="whitegrid", rc=SETTINGS)
        yield


def panels(
    count: int, *, width: float = WIDEST / 2, height: float | None = None, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` equal panels, as many in a row as a phone has room for; sizes are in inches."""
    columns = max(1, min(int(WIDEST / width), count))
    rows = -(-count // columns)
    height = 0.78 * width if height is None else height
    size = (max(width * columns, WIDEST), max(height * rows, 2.3))
    figure = Figure(figsize=size, layout="constrained")
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
    """Put one legend of the colours below all panels, in as many columns as there is room for."""
    if len(colours) == 1:
        return  # the page says of which method it is
    lines = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
    names = [wrapped(name, figure.get_figwidth() - 0.6) for name in colours]
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    for columns in range(min(4, len(lines)), 0, -1):
        legend = figure.legend(lines, names, loc="outside lower left", ncols=columns)
        size = legend.get_window_extent(renderer)
        if size.width <= figure.bbox.width - 8 or columns == 1:
            # It takes its height of the panels.
            figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)
            return
        legend.remove()


def wrapped(text: str, inches: float) -> str:
    """Return a text in lines that fit into a width."""
    return textwrap.fill(text, max(8, int(inches * LETTERS)))
