"""The metrics of token classification: whole entities, and single tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets

from bilora.metrics.metric import TEXT, Compute, Metric, Undefined

if TYPE_CHECKING:
    from bilora.tasks.tokens.task import TokenTask

Tags = Sequence[Sequence[str]]

Entity = tuple[str, int, int]
"""Type, position of the first token, position behind the last one."""


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return the entities that the tags of a row mark, by the strict reading of IOB2.

    An entity is a ``B-x`` and every ``I-x`` of the same type that follows it without a gap. An ``I-x`` that continues
    nothing marks nothing: the lenient reading, by which it begins an entity, forgives a model what the task asks.
    """
    spans = set()
    start: int | None = None
    for position, tag in enumerate([*tags, ""]):  # the empty tag ends an entity that reaches the end of the row
        if start is not None and tag != f"I-{tags[start][2:]}":
            spans.add((tags[start][2:], start, position))
            start = None
        if tag.startswith("B-"):
            start = position
    return spans


@dataclass(frozen=True)
class Counts:
    """Numbers of entities (or tokens): the same in both, predicted, and in the references."""

    both: int
    predicted: int
    references: int


def f1(counts: Counts) -> float:
    """Return ``2 both / (predicted + references)``."""
    return _share(2 * counts.both, counts.predicted + counts.references)


def precision(counts: Counts) -> float:
    """Return the share of the predicted entities that are right."""
    return _share(counts.both, counts.predicted)


def recall(counts: Counts) -> float:
    """Return the share of the entities of the references that are predicted."""
    return _share(counts.both, counts.references)


def count_entities(predictions: Tags, references: Tags) -> Counts:
    """Return counts of whole entities: type, first and last token must be the same, as in CoNLL-2003."""
    pairs = [(entities(row), entities(labels)) for row, labels in zip(predictions, references, strict=True)]
    return Counts(
        both=sum(len(row & labels) for row, labels in pairs),
        predicted=sum(len(row) for row, _ in pairs),
        references=sum(len(labels) for _, labels in pairs),
    )


def count_tokens(predictions: Tags, references: Tags) -> Counts:
    """Return counts of tokens with the same tag."""
    rows = list(zip(predictions, references, strict=True))
    total = sum(len(labels) for _, labels in rows)
    same = sum(tag == label for tags, labels in rows for tag, label in zip(tags, labels, strict=True))
    return Counts(both=same, predicted=total, references=total)


def _of(count: Callable[[Tags, Tags], Counts], measure: Callable[[Counts], float]) -> Compute:
    return lambda predictions, references: measure(count(predictions, references))


TOKEN_MEASURES: dict[str, Compute] = {
    "entity_f1": _of(count_entities, f1),
    "entity_precision": _of(count_entities, precision),
    "entity_recall": _of(count_entities, recall),
    "token_accuracy": _of(count_tokens, recall),
}


def token_metric(task: TokenTask) -> Metric:
    """Return the metric of a token classification task, over the tags of each row."""
    measures = {key: TOKEN_MEASURES[key] for key in task.metric_keys}
    return Metric(task.name, measures, datasets.Sequence(TEXT))


def _share(part: int, whole: int) -> float:
    if not whole:
        raise Undefined("there is no entity to take a share of")
    return part / whole
