"""Checked rows of a data set, each with the file and line it came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bilora.data.faults import Fault, OnBadRow, refuse, warn_of_skipped
from bilora.data.records import Record, read_records
from bilora.errors import DataError

if TYPE_CHECKING:
    from bilora.tasks.task import AnyTask

Row = Mapping[str, Any]

Label = int | float | frozenset[int] | None
"""A class index, a number, the class indices of a row that may have several, or none."""


@dataclass(frozen=True)
class Rows:
    """An immutable sequence of checked rows; ``label`` is a class index, a finite float, a set of indices, or neither.

    Args:
        rows: Field name to value, read-only.
        source: File or set the rows came from.
        lines: Line of each row in ``source``, counted from 1.
        ids: Position of each row in ``source``, counted from 0; stays with the row through ``select``.
        skipped: Rows of ``source`` that are left out because they cannot be used.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> some = [(1, {"sentence": "good", "label": 1}), (2, {"sentence": "bad", "label": 0})]
        >>> rows = check_rows(some, TASKS["sst2"], source="toy", split="train")
        >>> len(rows), rows.labels, rows.select([1])[0]["sentence"], rows.select([1]).ids
        (2, (1, 0), 'bad', (1,))
    """

    rows: tuple[Row, ...]
    source: str
    lines: tuple[int, ...]
    ids: tuple[int, ...]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The label of each row, or the set of its labels; None where the row is unlabelled, or has one per token.

        Example:
            >>> Rows((), "empty", (), ()).labels
            ()
        """
        # Tags may stand in a field of that name too; the rows are not stratified by them.
        labels = [row["label"] for row in self.rows]
        return tuple([label if isinstance(label, int | float | frozenset) else None for label in labels])

    def origin(self, index: int) -> str:
        """Return where a row came from, as ``source:line``.

        Example:
            >>> Rows(({"label": 0},), "train.jsonl", (7,), (6,)).origin(0)
            'train.jsonl:7'
        """
        return f"{self.source}:{self.lines[index]}"

    def select(self, indices: Iterable[int]) -> Rows:
        """Return the rows at ``indices``, in that order, with their origins and ids.

        Raises:
            DataError: There is no row at an index.

        Example:
            >>> rows = Rows(({"label": 0}, {"label": 1}), "train.jsonl", (1, 2), (0, 1))
            >>> rows.select([1, 0]).ids
            (1, 0)
        """
        chosen = tuple(indices)
        wrong = [index for index in chosen if not 0 <= index < len(self)]
        if wrong:
            raise DataError(f"{self.source}: no row at index {wrong[0]}; there are {len(self)}, from 0")
        return Rows(
            tuple(self.rows[index] for index in chosen),
            self.source,
            tuple(self.lines[index] for index in chosen),
            tuple(self.ids[index] for index in chosen),
            self.skipped,
        )


def read_rows(path: str | os.PathLike[str], task: AnyTask, *, split: str) -> Rows:
    """Return the checked rows of a file.

    Args:
        path: A file of one of the forms of :func:`~bilora.data.records.read_records`.
        task: Says which fields there must be and which labels are allowed.
        split: What the rows are for (``"train"``), for the error text.

    Returns:
        All the rows, in the order of the file, with ids 0, 1, ...

    Raises:
        DataError: The file cannot be read, has no row, or rows are at fault; names file, line and field.

    Example:
        >>> import pathlib, tempfile
        >>> from bilora.tasks.catalog import TASKS
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "train.jsonl"
        >>> _ = path.write_text('{"sentence": "good", "label": 1}', encoding="utf-8")
        >>> read_rows(path, TASKS["sst2"], split="train").labels
        (1,)
    """
    return check_records(read_records(path), task, source=str(path), split=split)


def check_rows(rows: Iterable[tuple[int, Row]], task: AnyTask, *, source: str, split: str) -> Rows:
    """Return rows that are already in memory, checked in the same way as those of a file.

    Args:
        rows: Pairs of a line or row number, counted from 1, and a row.
        task: Says which fields there must be and which labels are allowed.
        source: Where the rows are from, for the error text.
        split: What the rows are for, for the error text.

    Returns:
        The rows, with ids 0, 1, ... in the order given.

    Raises:
        DataError: There is no row, or rows are at fault.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> check_rows([(1, {"sentence": "good"})], TASKS["sst2"], source="toy", split="train")
        Traceback (most recent call last):
            ...
        bilora.errors.DataError: toy: 1 fault in the rows
          toy:1 field 'label': is missing; the row has sentence.
    """
    return check_records([(number, dict(row), []) for number, row in rows], task, source=source, split=split)


def check_records(
    records: Sequence[Record], task: AnyTask, *, source: str, split: str, on_bad_row: OnBadRow = "error"
) -> Rows:
    """Return the records of a file as checked rows; the other arguments and errors are those of :func:`check_rows`.

    Args:
        records: What was read of the file.
        task: As there.
        source: As there.
        split: As there.
        on_bad_row: ``error`` refuses the records that are at fault, ``skip`` leaves them out with a warning; their
            ids are then missing among those of the rows.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> check_records([(3, {"sentence": "good", "label": 1}, [])], TASKS["sst2"], source="a", split="train").lines
        (3,)
    """
    if not records:
        raise DataError(f"{source}: the {split} set has no row; at least one is needed")
    good: list[tuple[Row, int, int]] = []
    faults: list[str] = []
    for position, record in enumerate(records):
        row, found = check_record(record, task)
        faults += [fault.at(source, record[0]) for fault in found]
        if not found:
            good.append((MappingProxyType(row), record[0], position))
    if not good and on_bad_row == "skip":
        refuse(faults, source=f"{source}: no row can be used")
    if faults and on_bad_row == "error":
        refuse(faults, source=source)
    skipped = len(records) - len(good)
    if skipped:
        warn_of_skipped(faults, rows=skipped, of=len(records), source=source)
    rows, lines, ids = zip(*good, strict=True)
    return Rows(rows, source, lines, ids, skipped)


def check_record(record: Record, task: AnyTask) -> tuple[dict[str, Any], list[Fault]]:
    """Return the row as the task uses it, and everything that is wrong with it, its form included.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> check_record((3, {"sentence": "good", "label": 1}, [Fault(None, "is cut")]), TASKS["sst2"])
        ({}, [Fault(field=None, text='is cut')])
    """
    _, row, found = record
    if any(fault.field is None for fault in found):  # of the whole line: there are no fields to check
        return {}, found
    checked, more = task.check_row(row)
    return checked, [*found, *more]
