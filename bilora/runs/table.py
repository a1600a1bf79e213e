"""The rows of several runs as one table: mean and spread over seeds."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bilora.artifacts.scored_on import UPPER, VALIDATION

UNLIMITED = 10_000
"""Columns; more than any table has."""

SCORED_ON = {VALIDATION: "validation", UPPER: "D2, trained on above"}
OF_UPPER = ("scored on", "D2 loss")
OF_VALIDATION = ("validation loss", "gap")
NOT_HERE = "-"
"""A cell of a column that is there for other lines of the table."""


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return one line of text cells a method, in the order in which the methods first appear.

    Args:
        rows: Rows of results, as :func:`~bilora.runs.run.run_once` returns them.

    Returns:
        Cells by column: means, with the sample standard deviation over seeds after ``+-`` where there are two
        or more; ``undefined`` where a run has no value. A run that was scored on D2 has no validation loss and no gap.

    Example:
        >>> row = {"method": "lora", "metric": "accuracy", "score": 0.5, "train_loss": 0.25, "validation_loss": 0.75}
        >>> row |= {"seconds": 9.0, "peak_memory_mb": 800.0, "trainable_parameters": 1000}
        >>> summarise([row, {**row, "score": 0.7}])[0]["accuracy"]
        '0.600 +- 0.141'
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    kinds = {_scored_on(row) for row in rows}
    return [_line([row for row in rows if row["method"] == method], kinds) for method in methods]


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Print the summary of the rows to the standard output."""
    print_cells(summarise(rows), title=title)


def print_cells(lines: Sequence[Mapping[str, str]], *, title: str) -> None:
    """Print lines of cells by column, all of the same columns, to the standard output.

    Args:
        lines: At least one.
        title: What stands above the table.
    """
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(lines[0]):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for line in lines:
        # As text: a name may hold what rich would take for a style.
        table.add_row(*(Text(each) for each in line.values()))
    console = Console(file=sys.stdout)
    # Where the output is a file or a pipe, rich takes 80 columns and would cut the numbers.
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=Console(width=UNLIMITED).measure(table).maximum)
    console.print(table)


def _line(runs: Sequence[Mapping[str, Any]], kinds: Collection[str]) -> dict[str, str]:
    """Return a line with the columns that a table of runs scored on ``kinds`` has."""
    own = {_scored_on(run) for run in runs}
    upper, validation = UPPER in own, VALIDATION in own
    columns = {
        "method": str(runs[0]["method"]),
        "seeds": str(len(runs)),
        "scored on": " and ".join(SCORED_ON[kind] for kind in sorted(own)),
        str(runs[0]["metric"]): _spread(run["score"] for run in runs),
        "train loss": _spread(run["train_loss"] for run in runs),
        "D2 loss": _spread(run.get("d2_loss") for run in runs) if upper else NOT_HERE,
        "validation loss": _spread(run["validation_loss"] for run in runs) if validation else NOT_HERE,
        "gap": _spread(_gap(run) for run in runs) if validation else NOT_HERE,
        "parameters": f"{runs[0]['trainable_parameters']:,}",
        "seconds": _spread((run["seconds"] for run in runs), digits=0),
        "peak MB": _spread((run["peak_memory_mb"] for run in runs), digits=0),
    }
    left = {*(OF_UPPER if UPPER not in kinds else ()), *(OF_VALIDATION if VALIDATION not in kinds else ())}
    return {name: cell for name, cell in columns.items() if name not in left}


def _scored_on(run: Mapping[str, Any]) -> str:
    # Rows that were written before there was a choice do not say it.
    return str(run.get("scored_on", VALIDATION))


def _gap(run: Mapping[str, Any]) -> float | None:
    if run["validation_loss"] is None or run["train_loss"] is None:
        return None
    return float(run["validation_loss"] - run["train_loss"])


def _spread(values: Iterable[float | None], *, digits: int = 3) -> str:
    numbers = list(values)
    known = [each for each in numbers if each is not None]
    if len(known) < len(numbers):
        return "undefined"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} +- {statistics.stdev(known):.{digits}f}"
