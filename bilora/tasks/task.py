"""What every task answers, whatever its kind: where its rows are, how a row is checked, and what the score is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol, runtime_checkable

from bilora.data.faults import Fault


@runtime_checkable
class AnyTask(Protocol):
    """A task as data: one frozen dataclass a kind, such as :class:`bilora.tasks.catalog.Task` for whole texts.

    How the rows of a kind are encoded, trained on and scored is the business of the object that
    :func:`bilora.tasks.kinds.build_kind` finds under ``kind``.
    """

    @property
    def name(self) -> str:
        """Folder name under a data directory, configuration name on the hub, and name in the results."""

    @property
    def kind(self) -> str:
        """Key of the kind of task."""

    @property
    def metric(self) -> str:
        """Key of the headline metric, the one used as score."""

    @property
    def greater_is_better(self) -> bool:
        """Whether a larger value of ``metric`` is better."""

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """Names of the validation sets; the first gives the score."""

    @property
    def hub(self) -> str | None:
        """Id of the hub data set that has this task as a configuration; None if it is on no hub."""

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row as the library uses it, and everything that is wrong with it.

        The row returned always has ``label``: a class index or a number, by which rows are stratified, or something
        else (None, tags), by which they are not.
        """

    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return what of a row must not stand in training and in validation."""
