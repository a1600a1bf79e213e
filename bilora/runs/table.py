"""The rows of several runs as one table: mean and spread over seeds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bilora.artifacts.scored_on import UPPER, VALIDATION

UNLIMITED = 10_000  # characters of a line; more than any table has
SCORED_ON = {VALIDATION: "validation", UPPER: "D2, trained on above"}
NOT_HERE = "-"  # in a column that only other lines of the table fill


@dataclass(frozen=True)
class Spread:
    """Mean and sample deviation; the deviation of a single number is None."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of numbers; None without any, or where one of them is undefined."""
        numbers = pandas.Series(list(values), dtype=float)
        # pandas would leave an undefined score out of the mean, and the failed run with it.
        if numbers.empty or numbers.hasnans:
            return None
        # The sample deviation (n - 1), since the seeds are a sample; of one number it is NaN.
        return cls(float(numbers.mean()), float(numbers.std()) if len(numbers) > 1 else None)


def spread_cell(spread: Spread | None, *, digits: int = 3, sign: str = "+-") -> str:
    """Return a spread as the text of a cell: the mean, and the deviation behind ``sign``."""
    if spread is None:
        return "undefined"
    return f" {sign} ".join(f"{number:.{digits}f}" for number in (spread.mean, spread.deviation) if number is not None)


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return one line of text cells per method, in the order in which the methods first appear."""
    if not rows:
        return []  # an empty frame has no columns to subtract
    # Rows that were written before there was a choice do not hold it.
    missing = {"scored_on": VALIDATION, "d2_loss": None, "validation_loss": None}
    runs = pandas.DataFrame([missing | dict(row) for row in rows])
    # Run by run: the spread of the gap is not that of the two losses.
    runs["gap"] = runs["validation_loss"].astype(float) - runs["train_loss"].astype(float)
    lines = [_line(method, of_method) for method, of_method in runs.groupby("method", sort=False)]
    # A run that was scored on D2 has no validation loss and no gap; columns that no line fills are left out.
    unused = {name for name in ("D2 loss", "validation loss", "gap") if all(line[name] == NOT_HERE for line in lines)}
    if "D2 loss" in unused:
        unused.add("scored on")
    return [{name: cell for name, cell in line.items() if name not in unused} for line in lines]


def _line(method: Any, runs: pandas.DataFrame) -> dict[str, str]:
    kinds = sorted(set(runs["scored_on"]))

    def spread(column: str, *, digits: int = 3, kind: str | None = None) -> str:
        return spread_cell(Spread.of(runs[column]), digits=digits) if kind in (None, *kinds) else NOT_HERE

    return {
        "method": str(method),
        "seeds": str(len(runs)),
        "scored on": " and ".join(SCORED_ON[kind] for kind in kinds),
        str(runs["metric"].iloc[0]): spread("score"),
        "train loss": spread("train_loss"),
        "D2 loss": spread("d2_loss", kind=UPPER),
        "validation loss": spread("validation_loss", kind=VALIDATION),
        "gap": spread("gap", kind=VALIDATION),
        "parameters": f"{runs['trainable_parameters'].iloc[0]:,}",
        "seconds": spread("seconds", digits=0),
        "peak MB": spread("peak_memory_mb", digits=0),
    }


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Print the summary of the rows to the standard output."""
    print_cells(summarise(rows), title=title)


def print_cells(lines: Sequence[Mapping[str, str]], *, title: str) -> None:
    """Print lines of cells by column, all of the same columns, to the standard output.

    A table that is too wide for the terminal, or for 80 characters where it is none, is turned on its side, or printed
    in parts that each begin with the first column.
    """
    console = Console(file=sys.stdout)  # of 80 columns where it is no terminal
    parts = min((_parts(cells, console.width) for cells in (lines, _turned(lines))), key=len)
    # By itself: a table breaks a title that is wider than its columns.
    console.print(Text(title), soft_wrap=True)
    for table in map(_table, parts):
        if not console.is_terminal:
            # Of a single cell that is wider rich would cut the end.
            console.width = max(console.width, _width(table))
        console.print(table)


def _parts(lines: Sequence[Mapping[str, str]], width: int) -> list[list[dict[str, str]]]:
    """Return the lines with as many of the columns as there is room for, the first one in every part."""
    first, *names = lines[0]
    parts: list[list[str]] = [[]]
    for name in names:
        if parts[-1] and _width(_table(_of_columns(lines, [first, *parts[-1], name]))) > width:
            parts.append([])
        parts[-1].append(name)
    return [_of_columns(lines, [first, *part]) for part in parts]


def _of_columns(lines: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[dict[str, str]]:
    return [{name: line[name] for name in names} for line in lines]


def _turned(lines: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return a line per column but the first, whose cells are the names of the columns now."""
    first, *names = lines[0]
    return [{first: name, **{line[first]: line[name] for line in lines}} for name in names]


def _table(lines: Sequence[Mapping[str, str]]) -> Table:
    table = Table()
    for index, name in enumerate(lines[0]):
        # As text: a name may hold what rich would take for a style.
        table.add_column(Text(name), justify="left" if index == 0 else "right", no_wrap=True)
    for line in lines:
        table.add_row(*map(Text, line.values()))
    return table


def _width(table: Table) -> int:
    return Console(width=UNLIMITED).measure(table).maximum
