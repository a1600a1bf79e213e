"""Checked rows of a data set, each with the file and line it came from."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bilora.data.faults import Fault, OnBadRow, refuse, warn_of_skipped
from bilora.data.records import read_records
from bilora.data.tables import Record
from bilora.errors import DataError

if TYPE_CHECKING:
    from bilora.tasks.task import AnyTask

Row = Mapping[str, Any]

# A class index, a number, the class indices of a row that may have several, or none.
Label = int | float | frozenset[int] | None


@dataclass(frozen=True)
class Rows:
    """An immutable sequence of checked rows, each with its label under ``label``."""

    rows: tuple[Row, ...]
    source: str  # the file or set the rows came from
    lines: tuple[int, ...]  # line of each row in source, counted from 1
    ids: tuple[int, ...]  # position of each row in source, counted from 0; stays with the row through select
    skipped: int = 0  # rows of source that are left out because they cannot be used
    groups: tuple[Hashable, ...] | None = None  # of each row, where those of a group stay on one side of every split

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The label of each row, or the set of its labels; None where the row is unlabelled, or has one per token."""
        # Tags may stand in a field of that name too; the rows are not stratified by them.
        labels = [row["label"] for row in self.rows]
        return tuple([label if isinstance(label, int | float | frozenset) else None for label in labels])

    def origin(self, index: int) -> str:
        """Return where a row came from, as ``source:line``."""
        return f"{self.source}:{self.lines[index]}"

    def select(self, indices: Iterable[int]) -> Rows:
        """Return the rows at ``indices``, in that order, with their origins and ids."""
        positions = tuple(indices)
        # Python takes -1 for the last one.
        if wrong := [index for index in positions if not 0 <= index < len(self)]:
            raise DataError(f"{self.source}: no row at index {wrong[0]}; there are {len(self)}, from 0")
        return Rows(
            tuple(self.rows[index] for index in positions),
            self.source,
            tuple(self.lines[index] for index in positions),
            tuple(self.ids[index] for index in positions),
            self.skipped,
            None if self.groups is None else tuple(self.groups[index] for index in positions),
        )


def read_rows(path: str | os.PathLike[str], task: AnyTask, *, split: str) -> Rows:
    """Return the checked rows of a file."""
    return check_records(read_records(path), task, source=str(path), split=split)


def check_rows(rows: Iterable[tuple[int, Row]], task: AnyTask, *, source: str, split: str) -> Rows:
    """Return rows that are already in memory, checked in the same way as those of a file."""
    return check_records([(number, dict(row), []) for number, row in rows], task, source=source, split=split)


def check_records(
    records: Sequence[Record], task: AnyTask, *, source: str, split: str, on_bad_row: OnBadRow = "error", cure: str = ""
) -> Rows:
    """Return the records of a file as checked rows, with ids 0, 1, ...; rows at fault are refused, or left out.

    ``cure`` stands behind the number of faults where rows are refused.
    """
    if not records:
        raise DataError(f"{source}: the {split} set has no row; at least one is needed")
    good: list[tuple[Row, int, int]] = []
    faults: list[str] = []
    for position, record in enumerate(records):
        row, row_faults = check_record(record, task)
        faults += [fault.at(source, record[0]) for fault in row_faults]
        if not row_faults:
            # Read-only: the same rows are handed to all runs of a command.
            good.append((MappingProxyType(row), record[0], position))
    if not good and on_bad_row == "skip":
        refuse(faults, source=f"{source}: no row can be used")
    if faults and on_bad_row == "error":
        refuse(faults, source=source, cure=cure)
    if skipped := len(records) - len(good):
        warn_of_skipped(faults, rows=skipped, of=len(records), source=source)
    rows, lines, ids = zip(*good, strict=True)
    return Rows(rows, source, lines, ids, skipped)


def check_record(record: Record, task: AnyTask) -> tuple[dict[str, Any], list[Fault]]:
    """Return the row as the task uses it, and everything that is wrong with it, its form included."""
    _, row, faults = record
    if any(fault.field is None for fault in faults):  # of the whole line: there are no fields to check
        return {}, faults
    checked, more = task.check_row(row)
    return checked, [*faults, *more]
