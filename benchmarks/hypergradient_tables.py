"""The measurements of hypergradients as three tables and a picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

UNLIMITED = 10_000
"""Columns; more than any table has."""
PLOTTED = 100.0
"""The condition number of the picture."""
MARKERS = {
    "first_order": "*",
    "darts": "o",
    "neumann": "s",
    "conjugate_gradient": "D",
    "cg": "D",
    "nystrom": "^",
    "adaptive": "P",
    "sama": "P",
    "unrolled": "v",
}
COLOURS = {None: "tab:gray", "exact": "tab:blue", "central": "tab:green", "forward": "tab:orange"}
STOCK_COLOUR = "tab:red"
NOTES = """\
Cosine undefined: the approximation is zero. Scales: the closed form has w = H^-1 v, the one-step term w = v;
unrolled and adaptive carry the learning rate (SGD: ridge 1/L, BERT 0.1; AdamW: 0.001), so they are shorter.
On BERT, those that weigh curvature, and the four batches of 'unrolled, steps 4', differ from one step on purpose;
compare central and forward with exact. A pass of 'exact' goes through the graph of a gradient and costs more.
Betty: version 0.2.1 as it is, with new masks in every pass; held against the term at the parameters it takes it at.
Its cg also differentiates in the frozen parameters of the base, which autograd refuses.
"""
Line = Mapping[str, Any]


def print_tables(lines: Sequence[Line], about: Mapping[str, Any], *, file: TextIO) -> None:
    """Print the command, the versions, the three tables, and every error in full."""
    print(f"command: {about['command']}", file=file)
    print("versions:", ", ".join(f"{name} {version}" for name, version in about["versions"].items()), file=file)
    print(f"seed: {about['seed']}; one thread; all but the times repeat under a seed\n", file=file)
    for table in (ridge_table(lines), bert_table(lines), cost_table(lines)):
        text = io.StringIO()
        # Measured, since rich takes 80 columns where the output is a file or a pipe, and would cut the numbers.
        width = Console(width=UNLIMITED).measure(table).maximum
        Console(file=text, width=width, color_system=None).print(table)
        print(*(row.rstrip() for row in text.getvalue().splitlines()), sep="\n", end="\n\n", file=file)
    print(NOTES, file=file)
    for fault in dict.fromkeys(f"{label(line)}, {line['problem']}: {line['error']}" for line in lines if line["error"]):
        print(fault, file=file)


def label(line: Line) -> str:
    """Return how a method is called in the tables.

    Example:
        >>> label({"by": "betty", "name": "cg", "chosen": {"cg_iterations": 5}})
        'Betty cg, iterations 5'
    """
    owner = "Betty " if line["by"] == "betty" else ""
    prefix = f"{line['name']}_" if owner else ""
    chosen = [f"{name.removeprefix(prefix).replace('_', ' ')} {value}" for name, value in line["chosen"].items()]
    return ", ".join([owner + line["name"], *chosen])


def ridge_table(lines: Sequence[Line]) -> Table:
    """Return cosine and relative error to the closed form, by condition number."""
    rows = [line for line in lines if line["problem"] == "ridge"]
    conditions = list(dict.fromkeys(line["condition"] for line in rows))
    title = f"Ridge regression at the lower optimum: implicit term against its closed form; {_means(rows)}"
    names = [f"{name}, cond {condition:g}" for condition in conditions for name in ("cosine", "rel. error")]
    table = _table(title, names)
    for group in _by_method(rows):
        cells = [_cells(line, cosine="{:.4f}", relative_error="{:.1e}") for line in group]
        table.add_row(*_head(group[0]), *(cell for pair in cells for cell in pair))
    return table


def bert_table(lines: Sequence[Line]) -> Table:
    """Return cosine and norm ratio to the exact one-step mixed derivative, without and with dropout."""
    rows = [line for line in lines if line["problem"] == "bert"]
    dropouts = list(dict.fromkeys(line["dropout"] for line in rows))
    title = f"Tiny BERT with adapters: implicit term against the exact one-step term, same masks; {_means(rows)}"
    names = ("cosine", "lowest", "norm ratio")
    table = _table(title, [f"{name}, dropout {dropout:g}" for dropout in dropouts for name in names])
    for group in _by_method(rows):
        cells = [_cells(line, cosine="{:.4f}", lowest_cosine="{:.4f}", norm_ratio="{:.3g}") for line in group]
        table.add_row(*_head(group[0]), *(cell for three in cells for cell in three))
    return table


def cost_table(lines: Sequence[Line]) -> Table:
    """Return passes and time of one hypergradient of the transformer, its pass on D2 included."""
    rows = [line for line in lines if line["problem"] == "bert" and line["dropout"] > 0]
    title = "One hypergradient of that BERT, the pass on the upper batch included"
    table = _table(title, ["forward", "backward", "CPU ms"])
    for line in rows:
        if "seconds" not in line:
            table.add_row(*_head(line), _kind(line))
            continue
        table.add_row(*_head(line), str(line["forward"]), str(line["backward"]), f"{1000 * line['seconds']:.1f}")
    return table


def plot_errors(lines: Sequence[Line], *, path: Path) -> None:
    """Draw relative error over passes on the ridge problem and save the picture as PNG."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    rows = [line for line in lines if line["problem"] == "ridge" and line["condition"] == PLOTTED]
    for line in (row for row in rows if row["error"] is None):
        colour = STOCK_COLOUR if line["by"] == "betty" else COLOURS[line["products"]]
        cost = line["forward"] + line["backward"]
        axes.plot(cost, line["relative_error"], MARKERS[line["name"]], color=colour, fillstyle="none")
    used = {line["name"]: None for line in rows if line["by"] == "bilora"}
    shapes = [axes.plot([], [], MARKERS[name], color="black", fillstyle="none", label=name)[0] for name in used]
    owners = {
        "exact products": "tab:blue",
        "central": "tab:green",
        "forward": "tab:orange",
        "stock Betty": STOCK_COLOUR,
    }
    colours = [axes.plot([], [], "o", color=colour, label=name)[0] for name, colour in owners.items()]
    axes.set(
        title=f"Ridge regression, condition {PLOTTED:g}",
        xlabel="passes of one hypergradient, forward + backward",
        ylabel="relative error of the implicit term",
        xscale="log",
        yscale="log",
    )
    axes.grid(alpha=0.3)
    axes.legend(handles=[*shapes, *colours], fontsize=7, ncols=2)
    figure.savefig(path, dpi=100)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("approximation", no_wrap=True)
    table.add_column("products", no_wrap=True)
    for name in columns:
        # Two lines: what it is, and where.
        table.add_column(name.replace(", ", "\n"), justify="right", no_wrap=True)
    return table


def _means(rows: Sequence[Line]) -> str:
    return f"means over {rows[0]['draws']} draws"


def _kind(line: Line) -> str:
    return str(line["error"]).partition(":")[0]


def _head(line: Line) -> tuple[str, str]:
    return label(line), line["products"] or "-"


def _cells(line: Line, **columns: str) -> list[str]:
    if line["error"]:
        return [_kind(line), *[""] * (len(columns) - 1)]
    values = [line.get(name) for name in columns]
    return ["undefined" if v is None else form.format(v) for v, form in zip(values, columns.values(), strict=True)]


def _by_method(rows: Sequence[Line]) -> list[list[Line]]:
    """Return the lines of each method together."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in rows:
        groups.setdefault(_head(line), []).append(line)
    return list(groups.values())
