"""Entities marked by the tags of tokens."""

from __future__ import annotations

from collections.abc import Sequence

OUTSIDE = "O"
"""The tag of a token that is in no entity."""

Entity = tuple[str, int, int]
"""Type, position of the first token, position behind the last one."""


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return the entities that tags mark, by the strict reading of IOB2.

    An entity is a ``B-x`` and every ``I-x`` of the same type that follows it without a gap. An ``I-x`` that continues
    nothing marks nothing: the lenient reading, by which it begins an entity, forgives a model what the task asks.

    Args:
        tags: The tags of one row: ``O``, ``B-x`` or ``I-x``.

    Example:
        >>> sorted(entities(["B-a", "I-a", "O", "I-a", "B-b", "B-b", "I-a"]))
        [('a', 0, 2), ('b', 4, 5), ('b', 5, 6)]
    """
    found = set()
    start: int | None = None
    for place, tag in enumerate([*tags, OUTSIDE]):
        if start is not None and tag != f"I-{tags[start][2:]}":
            found.add((tags[start][2:], start, place))
            start = None
        if tag.startswith("B-"):
            start = place
    return found
