"""Checks of the rows of a token classification task."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bilora.data.faults import Fault
from bilora.errors import first_ten
from bilora.tasks.text.rows import missing

if TYPE_CHECKING:
    from bilora.tasks.tokens.task import TokenTask  # which asks this module to check its rows

# The tag of a token that is in no entity.
OUTSIDE = "O"


def check_row(row: Mapping[str, Any], task: TokenTask) -> tuple[dict[str, Any], list[Fault]]:
    """Return the row with its tags as class indices, and everything wrong with it."""
    if faults := [missing(row, name) for name in (task.tokens_field, task.tags_field) if name not in row]:
        return {}, faults
    tokens, given = row[task.tokens_field], row[task.tags_field]
    wrong = {task.tokens_field: _token_fault(tokens), task.tags_field: _list_fault(given, tokens)}
    if faults := [Fault(name, text) for name, text in wrong.items() if text is not None]:
        return {}, faults
    tags, fault = _indices(given, task)
    fault = fault or (_order_fault([task.label_names[tag] for tag in tags]) if task.marks_entities else None)
    # There is no label to stratify by: a row has one per token.
    checked = {**row, "label": None, task.tokens_field: tuple(tokens), task.tags_field: tuple(tags)}
    return checked, [] if fault is None else [Fault(task.tags_field, fault)]


def _token_fault(tokens: Any) -> str | None:
    if not isinstance(tokens, list | tuple):
        kind = type(tokens).__name__
        return f"is {reprlib.repr(tokens)} ({kind}); a list of tokens is needed, which .jsonl and .parquet can hold"
    if not tokens:
        return "is empty; every row needs a token"
    for number, token in enumerate(tokens, start=1):
        if not isinstance(token, str) or not token.strip():
            return f"token {number} is {reprlib.repr(token)}; every token is text that is not empty"
    return None


def _list_fault(tags: Any, tokens: Any) -> str | None:
    if not isinstance(tags, list | tuple):
        return f"is {reprlib.repr(tags)} ({type(tags).__name__}); a list of tags is needed"
    if isinstance(tokens, list | tuple) and len(tags) != len(tokens):
        return f"has {len(tags)} tags for {len(tokens)} tokens; there must be one each"
    return None


def _indices(tags: Sequence[Any], task: TokenTask) -> tuple[list[int], str | None]:
    by_name = {name: index for index, name in enumerate(task.label_names)}
    indices: list[int] = []
    for number, tag in enumerate(tags, start=1):
        if isinstance(tag, str) and tag in by_name:
            indices.append(by_name[tag])
        # type and not isinstance: True is an int, and no index. Tags of a file are names, also those that look like
        # numbers.
        elif task.labels_from is None and type(tag) is int and 0 <= tag < len(by_name):
            indices.append(tag)
        else:
            allowed = f"no tag of {task.labels_from}; those are: " if task.labels_from else "no tag; known: "
            return [], f"tag {number} is {reprlib.repr(tag)}, which is {allowed}{first_ten(task.label_names)}"
    return indices, None


def _order_fault(tags: Sequence[str]) -> str | None:
    # Entities that do not begin with B-, as in IOB1, would be counted wrongly.
    for number, (before, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False), start=1):
        if tag.startswith("I-") and before[2:] != tag[2:]:
            return f"tag {number} is {tag!r} behind {before!r}; in IOB2 the first token of an entity has 'B-{tag[2:]}'"
    return None
