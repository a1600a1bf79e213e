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

# Type, position of the first token, position behind the last one.
Entity = tuple[str, int, int]


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return the entities that the tags of a row mark: ``B-x`` and every ``I-x`` that follows it without a gap."""
    # The strict reading of IOB2, by which an I-x that continues nothing marks nothing: the lenient one, by which it
    # begins an entity, forgives a model what the task asks.
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


def _share(count: Callable[[Tags, Tags], Counts], whole: Callable[[Counts], float]) -> Compute:
    def share(predictions: Tags, references: Tags) -> float:
        counts = count(predictions, references)
        if not whole(counts):
            raise Undefined("there is no entity to take a share of")
        return counts.both / whole(counts)

    return share


TOKEN_MEASURES: dict[str, Compute] = {
    # 2 both / (predicted + references)
    "entity_f1": _share(count_entities, lambda counts: (counts.predicted + counts.references) / 2),
    "entity_precision": _share(count_entities, lambda counts: counts.predicted),
    "entity_recall": _share(count_entities, lambda counts: counts.references),
    "token_accuracy": _share(count_tokens, lambda counts: counts.references),
}


def token_metric(task: TokenTask) -> Metric:
    """Return the metric of a token classification task, over the tags of each row."""
    measures = {key: TOKEN_MEASURES[key] for key in task.metric_keys}
    return Metric(task.name, measures, datasets.Sequence(TEXT))
