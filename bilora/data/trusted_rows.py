"""Rows that somebody has checked beside rows that nobody has: divided by a column, and held against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bilora.data.faults import Fault, refuse
from bilora.data.rows import Rows
from bilora.errors import DataError, first_ten

if TYPE_CHECKING:
    from bilora.tasks.task import AnyTask

# With fewer, neither a share of them nor an estimate by class says anything.
FEWEST_TRUSTED = 10

# What a column that marks trusted rows may hold, in lower case; truth values and numbers are written out.
TRUST = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def divided_by_column(rows: Rows, column: str) -> tuple[Rows, Rows]:
    """Return the doubtful rows and the trusted ones, which ``column`` marks.

    Raises:
        DataError: A row has something else there than true, 1, yes, false, 0, no or nothing.
    """
    marks = [TRUST.get(_written(row.get(column))) for row in rows]
    if wrong := [index for index, mark in enumerate(marks) if mark is None]:
        text = "is {!r}; a column that marks trusted rows holds true, 1 or yes, and false, 0, no or nothing for others"
        faults = [Fault(column, text.format(rows[index][column])) for index in wrong]
        refuse([fault.at(rows.source, rows.lines[index]) for fault, index in zip(faults, wrong, strict=True)],
               source=rows.source)  # fmt: skip
    trusted = [index for index, mark in enumerate(marks) if mark]
    if len(trusted) in (0, len(rows)):
        many = "no row" if not trusted else "every row"
        raise DataError(f"{rows.source}: {many} is trusted by the column {column!r}; some must be, and others not")
    return rows.select([index for index, mark in enumerate(marks) if not mark]), rows.select(trusted)


def _written(cell: Any) -> str:
    return "" if cell is None else str(cell).strip().lower()


def check_trusted(task: AnyTask, doubtful: Rows, trusted: Rows) -> tuple[Rows, list[str]]:
    """Return the doubtful rows whose text is not that of a trusted one, and notices of those that are left out.

    Raises:
        DataError: There are fewer than ten trusted rows, or none of a class.
    """
    if len(trusted) < FEWEST_TRUSTED:
        raise DataError(
            f"{trusted.source}: {len(trusted)} trusted rows are too few to judge by; give {FEWEST_TRUSTED} or more"
        )
    if any(type(label) is int for label in trusted.labels):
        empty = [name for name, count in task.class_counts(trusted).items() if not count]
        if empty:
            raise DataError(
                f"{trusted.source}: no trusted row has the class {first_ten(empty)}; give at least one of each class"
            )
    labels = {task.text_of(row): row["label"] for row in trusted}
    twice = [index for index, row in enumerate(doubtful) if task.text_of(row) in labels]
    if not twice:
        return doubtful, []
    if len(twice) == len(doubtful):
        raise DataError(
            f"{trusted.source}: every row of {doubtful.source} has the text of a trusted row; give trusted rows beside "
            "others"
        )
    other = sum(doubtful[index]["label"] != labels[task.text_of(doubtful[index])] for index in twice)
    kept = sorted(set(range(len(doubtful))) - set(twice))
    return doubtful.select(kept), [
        f"{len(twice):,} of the doubtful rows have the text of a trusted row, {other:,} of them with another label; "
        f"they are left out, and the trusted ones stay: {_places(doubtful, twice)}"
    ]


def _places(rows: Rows, indices: Sequence[int]) -> str:
    return f"{rows.source}, lines {first_ten(rows.lines[index] for index in indices)}"


def check_weights(rows: Rows, column: str) -> None:
    """Refuse weights of rows that are no numbers from 0 on.

    Raises:
        DataError: Names the first rows with another value, or says that all weights are 0.
    """
    wrong = [index for index, row in enumerate(rows) if row_weight(row.get(column)) is None]
    if wrong:
        texts = [
            Fault(column, f"is {rows[index].get(column)!r}; the weight of a row is a number, 0 or above").at(
                rows.source, rows.lines[index]
            )
            for index in wrong
        ]
        refuse(texts, source=rows.source)
    if not any(row_weight(row[column]) for row in rows):
        raise DataError(f"{rows.source}: every weight in {column!r} is 0, so that nothing would be learned")


def row_weight(cell: Any) -> float | None:
    """Return the weight that a cell holds, None where it holds none."""
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        weight = float(cell)
    except (ValueError, OverflowError):
        return None
    return weight if 0 <= weight < math.inf else None
