"""The metrics of token classification as one ``evaluate.Metric`` over a table of measures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

from bilora.metrics.entities import entities
from bilora.metrics.task_metrics import UndefinedMetricWarning

if TYPE_CHECKING:
    from bilora.tasks.tokens.task import TokenTask


@dataclass(frozen=True)
class Counts:
    """What predictions and references have, and what they have in common.

    Args:
        both: Entities (or tokens) that are the same in both.
        predicted: Entities predicted.
        wanted: Entities there are.

    Example:
        >>> f1(Counts(both=1, predicted=2, wanted=2))
        0.5
    """

    both: int
    predicted: int
    wanted: int


def f1(counts: Counts) -> float | None:
    """Return ``2 both / (predicted + wanted)``; None where there is no entity on either side."""
    return _share(2 * counts.both, counts.predicted + counts.wanted)


def precision(counts: Counts) -> float | None:
    """Return the share of the predicted entities that are right; None where none is predicted."""
    return _share(counts.both, counts.predicted)


def recall(counts: Counts) -> float | None:
    """Return the share of the wanted entities that are found; None where there are none."""
    return _share(counts.both, counts.wanted)


def count_entities(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Counts:
    """Return counts of whole entities: type, first and last token must be the same (CoNLL-2003, Tjong Kim Sang 2003).

    Example:
        >>> count_entities([["B-a", "I-a", "O"]], [["B-a", "O", "B-a"]])
        Counts(both=0, predicted=1, wanted=2)
    """
    pairs = [(entities(ours), entities(theirs)) for ours, theirs in zip(predictions, references, strict=True)]
    return Counts(
        both=sum(len(ours & theirs) for ours, theirs in pairs),
        predicted=sum(len(ours) for ours, _ in pairs),
        wanted=sum(len(theirs) for _, theirs in pairs),
    )


def count_tokens(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Counts:
    """Return counts of tokens with the same tag.

    Example:
        >>> count_tokens([["O", "B-a"]], [["O", "O"]])
        Counts(both=1, predicted=2, wanted=2)
    """
    rows = list(zip(predictions, references, strict=True))
    whole = sum(len(theirs) for _, theirs in rows)
    same = sum(our == their for ours, theirs in rows for our, their in zip(ours, theirs, strict=True))
    return Counts(both=same, predicted=whole, wanted=whole)


Count = Callable[[Sequence[Sequence[str]], Sequence[Sequence[str]]], Counts]

TOKEN_MEASURES: dict[str, tuple[Count, Callable[[Counts], float | None]]] = {
    "entity_f1": (count_entities, f1),
    "entity_precision": (count_entities, precision),
    "entity_recall": (count_entities, recall),
    "token_accuracy": (count_tokens, recall),
}
"""By metric key: what is counted, and what is made of the counts."""


class TokenMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """All metrics of one token classification task; undefined ones are None, with an ``UndefinedMetricWarning``.

    Args:
        task: Its ``metric_keys`` are keys of ``TOKEN_MEASURES``.

    Example:
        >>> metric = TokenMetric(TokenTask("toy", ("O", "B-a", "I-a")))
        >>> found = metric.compute(predictions=[["B-a", "I-a", "O"]], references=[["B-a", "I-a", "B-a"]])
        >>> found["entity_precision"], found["entity_recall"], round(found["entity_f1"], 4)
        (1.0, 0.5, 0.6667)
    """

    def __init__(self, task: TokenTask) -> None:
        self.task = task
        # Values are kept in memory: cache files would collide when two runs score at once.
        # The seed is given because evaluate would take it from numpy's global state.
        super().__init__(config_name=task.name, keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root)  # evaluate would make an empty folder in the user's cache here

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=f"{', '.join(self.task.metric_keys)} of {self.task.name}",
            citation="",
            inputs_description="predictions and references: the tags of a row",
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | None]:
        found = {}
        for key in self.task.metric_keys:
            count, measure = TOKEN_MEASURES[key]
            found[key] = measure(count(predictions, references))
            if found[key] is None:
                text = f"{key} of {self.task.name} is undefined: there is no entity to take a share of"
                warnings.warn(text, UndefinedMetricWarning, stacklevel=2)
        return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
