"""What a batch says of its rows beside what the model reads: which rows they are, and where they come from."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from bilora.errors import DataError

ROW_MARKS: Mapping[str, str] = {"row_ids": "row_id", "sources": "source"}
"""The keys of a batch that are no inputs of a model, and the key of a row that each is made of."""


@dataclass(frozen=True)
class TrainingRows:
    """How many training rows a run has, of which classes and sources, for what is learned of each of them.

    Args:
        count: Number of rows; the ``row_ids`` of a batch are from 0 to ``count - 1``.
        class_counts: Number of rows of each class, by class index; empty where the rows do not have one class each.
        source_names: Names of the sources; the ``sources`` of a batch are indices into them. May be empty.
        first_upper: The first of the ``row_ids`` of D2, which come last, where D2 is given; None where it is drawn.

    Example:
        >>> rows = [{"labels": 0, "source": "web"}, {"labels": 2, "source": "experts"}]
        >>> TrainingRows.of(rows)
        TrainingRows(count=2, class_counts=(1, 0, 1), source_names=('experts', 'web'), first_upper=None)
    """

    count: int
    class_counts: tuple[int, ...] = ()
    source_names: tuple[str, ...] = ()
    first_upper: int | None = None

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], *, classes: int = 0, first_upper: int | None = None) -> Self:
        """Return what encoded rows are, with at least so many classes.

        Raises:
            DataError: Some rows name a source and others do not.
        """
        labels, sources = list[Any](), list[Any]()
        for row in rows:
            labels.append(row.get("labels"))
            sources.append(row.get("source"))
        counts = Counter(label for label in labels if isinstance(label, int))
        # -100 and the like would be no class.
        have_classes = len(labels) == sum(counts.values()) and min(counts, default=-1) >= 0
        of_class = [counts[label] for label in range(max(classes, max(counts) + 1))] if have_classes else []
        return cls(len(labels), tuple(of_class), _names(sources), first_upper)


def _names(sources: Sequence[Any]) -> tuple[str, ...]:
    without = [position for position, source in enumerate(sources) if source is None]
    if without and len(without) < len(sources):
        raise DataError(f"training row {without[0]} has no 'source', and others have one; name that of every row")
    return tuple(sorted({str(source) for source in sources if source is not None}))


class NumberedRows(Sequence[Any]):
    """Rows as mappings that hold their position, counted from ``first``, as ``row_id``."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, first: int = 0) -> None:
        self.rows, self.first = rows, first

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        """Return a row with its position."""
        return {**self.rows[index], "row_id": self.first + index}

    def __iter__(self) -> Iterator[Any]:
        """Return the rows in order."""
        for position, row in enumerate(self.rows, start=self.first):
            yield {**row, "row_id": position}


@dataclass(frozen=True)
class MarkingCollate:
    """Makes batches of numbered rows as ``collate`` does, with ``marks`` beside what it returns."""

    collate: Callable[[Sequence[Any]], Any]
    marks: tuple[str, ...]
    source_names: tuple[str, ...] = ()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch, with ``row_ids`` and, where the rows name their sources, ``sources``, each ``(batch,)``."""
        # A collator may stack, or pad, whatever it finds in a row.
        others = (*ROW_MARKS.values(), "weight")
        bare = [{name: value for name, value in row.items() if name not in others} for row in rows]
        batch = dict(self.collate(bare))
        if "row_ids" in self.marks:
            batch["row_ids"] = torch.tensor([row["row_id"] for row in rows])
        if "sources" in self.marks and self.source_names:
            batch["sources"] = torch.tensor([self.source_names.index(str(row["source"])) for row in rows])
        if "weights" in self.marks:
            batch["weights"] = torch.tensor([float(row.get("weight", 1.0)) for row in rows])
        return batch


def without_marks(batch: Any) -> Any:
    """Return what of a batch is for the model."""
    if not isinstance(batch, Mapping) or not ROW_MARKS.keys() & batch.keys():
        return batch
    return {name: value for name, value in batch.items() if name not in ROW_MARKS}
