"""The metrics of token classification: whole entities, and single tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Share:
    """What is the same in both, as a share of a whole; ``count`` may be asked row by row, since counts add up."""

    count: Callable[[Tags, Tags], Counts]
    whole: Callable[[Counts], float]

    def __call__(self, predictions: Tags, references: Tags) -> float:
        """Return the share over all rows."""
        return self.of(self.count(predictions, references))

    def of(self, counts: Counts) -> float:
        """Return the share that counts make."""
        if not self.whole(counts):
            raise Undefined("there is no entity to take a share of")
        return counts.both / self.whole(counts)


TOKEN_MEASURES: dict[str, Share] = {
    # 2 both / (predicted + references)
    "entity_f1": Share(count_entities, lambda counts: (counts.predicted + counts.references) / 2),
    "entity_precision": Share(count_entities, lambda counts: counts.predicted),
    "entity_recall": Share(count_entities, lambda counts: counts.references),
    "token_accuracy": Share(count_tokens, lambda counts: counts.references),
}


def entity_table(predictions: Tags, references: Tags) -> list[dict[str, Any]]:
    """Return ``label``, ``precision``, ``recall``, ``f1`` and ``support`` (entities) of every type of entity."""
    pairs = [(entities(row), entities(labels)) for row, labels in zip(predictions, references, strict=True)]
    table = []
    for name in sorted({kind for pair in pairs for found in pair for kind, _, _ in found}):
        of_type = [tuple({span for span in found if span[0] == name} for found in pair) for pair in pairs]
        both = sum(len(found & right) for found, right in of_type)
        predicted, support = (sum(len(pair[side]) for pair in of_type) for side in (0, 1))
        shares = (both, predicted), (both, support), (2 * both, predicted + support)
        precision, recall, f1 = (part / whole if whole else None for part, whole in shares)
        table.append({"label": name, "precision": precision, "recall": recall, "f1": f1, "support": support})
    return table


def token_metric(task: TokenTask) -> Metric:
    """Return the metric of a token classification task, over the tags of each row."""
    measures: dict[str, Compute] = {key: TOKEN_MEASURES[key] for key in task.metric_keys}
    return Metric(task.name, measures, datasets.Sequence(TEXT))
