"""The sets of rows of one task: how they belong together, and validation rows taken out of training rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilora.data.groups import take_groups
from bilora.data.rows import Rows
from bilora.data.strata import draw_rows, make_strata, share_out
from bilora.errors import DataError

if TYPE_CHECKING:
    from bilora.tasks.task import AnyTask


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task."""

    task: AnyTask
    train: Rows
    validation: dict[str, Rows]  # the set that gives the score first
    notices: tuple[str, ...] = ()
    upper: Rows | None = None  # D2, where it is a set by itself; None where D2 is drawn from the training rows
    doubtful: Rows | None = None  # training rows whose labels nobody has checked, where others are trusted

    @property
    def skipped(self) -> dict[str, int]:
        """Rows left out because they cannot be used, by file; files without such rows are not in it."""
        return {rows.source: rows.skipped for rows in (self.train, *self.validation.values()) if rows.skipped}


def join_sets(task: AnyTask, train: Rows, validation: dict[str, Rows], notices: list[str]) -> TaskRows:
    """Return the sets of a task as one, with a notice of texts that are in both."""
    refuse_same_rows(train, validation)
    for name, rows in validation.items():
        if shared := shared_texts(task, train, rows):
            notices.append(f"{shared} of {len(rows)} {name} rows have the text of a training row")
    return TaskRows(task, train, validation, tuple(notices))


def refuse_same_rows(train: Rows, validation: Mapping[str, Rows]) -> None:
    """Refuse sets that share rows: those of one place in one file."""
    # By their place: two rows of the same text may both be meant, which is a notice.
    train_ids = set(train.ids)
    for name, rows in validation.items():
        same = [index for index, row_id in enumerate(rows.ids) if row_id in train_ids]
        # A file may be named in two ways, or through a link.
        if same and os.path.realpath(rows.source) == os.path.realpath(train.source):
            raise DataError(
                f"{rows.origin(same[0])} is a row of training and of {name}, as {len(same)} of {len(rows)} {name} rows "
                "are; give validation rows of their own, or leave them out, which takes a share of the training rows"
            )


def take_validation(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """Return the rows without a stratified share of them, and that share; whole groups where the rows have some."""
    if rows.groups is not None:
        taken = take_groups(rows.labels, rows.groups, share=min(share, 0.5), key="validation share")
        left = sorted(set(range(len(rows))) - set(taken))
        return rows.select(left), rows.select(taken)
    total = round(share * len(rows))
    all_strata = make_strata(rows.labels, bins=min(10, max(total, 1)))
    # Two rows of each class stay, one for each level; where that leaves too few, one.
    for kept in (2, 1):
        strata = {stratum: positions for stratum, positions in all_strata.items() if len(positions) > kept}
        sizes = {stratum: len(positions) for stratum, positions in strata.items()}
        if 1 <= total <= sum(sizes.values()) - kept * len(sizes):
            break
    else:
        raise DataError(
            f"{rows.source}: a share of {share:g} of {len(rows)} rows cannot be taken for validation, since each class "
            "keeps a row for training; give --validation-file, more rows or another --validation-share"
        )
    # The key is fixed, so that runs with different seeds are scored on the same rows.
    drawn = draw_rows(strata, share_out(total, sizes, least=0, spare=kept), key="validation share")
    others = sorted(set(range(len(rows))) - set(drawn))
    return rows.select(others), rows.select(drawn)


def shared_texts(task: AnyTask, train: Rows, validation: Rows) -> int:
    """Return how many validation rows have the text of a training row."""
    seen = {task.text_of(row) for row in train}
    return sum([task.text_of(row) in seen for row in validation])
