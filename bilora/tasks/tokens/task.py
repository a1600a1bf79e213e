"""Tasks with a label for every token: what their rows hold and how they are checked."""

from __future__ import annotations

import reprlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bilora.data.faults import Fault
from bilora.errors import SettingsError
from bilora.settings.lookup import did_you_mean

OUTSIDE = "O"
"""The tag of a token that is in no entity."""


@dataclass(frozen=True)
class TokenTask:
    """What a token classification task reads, predicts and is judged by.

    Where every tag is ``O``, ``B-x`` or ``I-x`` the tags mark entities (IOB2), and the score is the F1 of whole
    entities; other tags, such as parts of speech, are scored one by one.

    Args:
        name: Folder name under a data directory, and configuration name on the hub.
        label_names: The tags, in the order of the class indices.
        tokens_field: The field of a row with its tokens, a list of text.
        tags_field: The field with a tag (or the index of one) for each token.
        validation_splits: Names of the validation sets; the first gives the score.
        hub: Id of the hub data set that has this task as a configuration; None if it is on no hub.
        labels_from: The file whose tags ``label_names`` are; tags are then read as names only.

    Raises:
        SettingsError: The settings do not fit each other.

    Example:
        >>> task = TokenTask("toy", ("O", "B-town", "I-town"))
        >>> task.marks_entities, task.metric
        (True, 'entity_f1')
        >>> TokenTask("toy", ("NOUN", "VERB")).metric
        'token_accuracy'
    """

    kind: ClassVar[str] = "tokens"
    greater_is_better: ClassVar[bool] = True

    name: str
    label_names: tuple[str, ...]
    tokens_field: str = "tokens"
    tags_field: str = "tags"
    validation_splits: tuple[str, ...] = ("validation",)
    hub: str | None = None
    labels_from: str | None = None

    def __post_init__(self) -> None:
        faults = []
        if len(self.label_names) < 2 or len(set(self.label_names)) < len(self.label_names):
            faults.append(f"label_names are {self.label_names!r}; give two or more different tags")
        if self.tokens_field == self.tags_field:
            faults.append(f"tokens_field and tags_field are both {self.tags_field!r}")
        if not self.validation_splits:
            faults.append("validation_splits is empty; give at least one name")
        if faults:
            raise SettingsError(f"task {self.name!r}: " + "; ".join(faults))

    @property
    def marks_entities(self) -> bool:
        """Whether the tags mark entities, in IOB2."""
        return all(name == OUTSIDE or name[:2] in ("B-", "I-") and len(name) > 2 for name in self.label_names)

    @property
    def metric(self) -> str:
        """Key of the headline metric."""
        return self.metric_keys[0]

    @property
    def metric_keys(self) -> tuple[str, ...]:
        """Keys of all the task's metrics, the headline one first."""
        entities = ("entity_f1", "entity_precision", "entity_recall") if self.marks_entities else ()
        return (*entities, "token_accuracy")

    def check_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the row with its tags as class indices, and everything wrong with it.

        Example:
            >>> task = TokenTask("toy", ("O", "B-town", "I-town"))
            >>> task.check_row({"tokens": ["in", "Rome"], "tags": ["O", "B-town"]})[0]["tags"]
            (0, 1)
            >>> task.check_row({"tokens": ["in", "Rome"], "tags": ["O", "I-town"]})[1][0].text
            "tag 2 is 'I-town' behind 'O'; in IOB2 the first token of an entity has 'B-town'"
        """
        missing = [name for name in (self.tokens_field, self.tags_field) if name not in row]
        if missing:
            has = ", ".join(row) or "no field"
            return {}, [Fault(name, f"is missing; the row has {has}.{did_you_mean(name, row)}") for name in missing]
        tokens, given = row[self.tokens_field], row[self.tags_field]
        faults = [*self._token_faults(tokens), *self._list_faults(given, tokens)]
        if faults:
            return {}, faults
        tags, faults = self._indices(given)
        faults = faults or self._order_faults([self.label_names[tag] for tag in tags])
        return {**row, "label": None, self.tokens_field: tuple(tokens), self.tags_field: tuple(tags)}, faults

    def text_of(self, row: Mapping[str, Any]) -> Hashable:
        """Return the tokens of a row."""
        return tuple(row[self.tokens_field])

    def _token_faults(self, tokens: Any) -> list[Fault]:
        if not isinstance(tokens, list | tuple):
            what = f"is {reprlib.repr(tokens)} ({type(tokens).__name__})"
            return [Fault(self.tokens_field, f"{what}; a list of tokens is needed, which .jsonl and .parquet can hold")]
        if not tokens:
            return [Fault(self.tokens_field, "is empty; every row needs a token")]
        wrong = [place for place, token in enumerate(tokens, 1) if not isinstance(token, str) or not token.strip()]
        if wrong:
            text = f"token {wrong[0]} is {reprlib.repr(tokens[wrong[0] - 1])}; every token is text that is not empty"
            return [Fault(self.tokens_field, text)]
        return []

    def _list_faults(self, tags: Any, tokens: Any) -> list[Fault]:
        if not isinstance(tags, list | tuple):
            return [
                Fault(self.tags_field, f"is {reprlib.repr(tags)} ({type(tags).__name__}); a list of tags is needed")
            ]
        if isinstance(tokens, list | tuple) and len(tags) != len(tokens):
            return [Fault(self.tags_field, f"has {len(tags)} tags for {len(tokens)} tokens; there must be one each")]
        return []

    def _indices(self, tags: Sequence[Any]) -> tuple[list[int], list[Fault]]:
        by_name = {name: index for index, name in enumerate(self.label_names)}
        found: list[int] = []
        for place, tag in enumerate(tags, start=1):
            if isinstance(tag, str) and tag in by_name:
                found.append(by_name[tag])
            elif self.labels_from is None and type(tag) is int and 0 <= tag < len(by_name):
                found.append(tag)
            else:
                known = f"no tag of {self.labels_from}; those are: " if self.labels_from else "no tag; known: "
                text = f"tag {place} is {reprlib.repr(tag)}, which is {known}{', '.join(self.label_names[:10])}"
                return [], [Fault(self.tags_field, text)]
        return found, []

    def _order_faults(self, tags: Sequence[str]) -> list[Fault]:
        """Refuse entities that do not begin with ``B-``: those of IOB1 would be counted wrongly."""
        if not self.marks_entities:
            return []
        for place, (before, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False), start=1):
            if tag.startswith("I-") and before[2:] != tag[2:]:
                text = (
                    f"tag {place} is {tag!r} behind {before!r}; in IOB2 the first token of an entity has 'B-{tag[2:]}'"
                )
                return [Fault(self.tags_field, text)]
        return []


def tags_in_order(tags: Iterable[str]) -> list[str]:
    """Return tags with ``O`` first, and the two of an entity type beside each other.

    Example:
        >>> tags_in_order({"I-b", "B-a", "O", "B-b", "I-a"})
        ['O', 'B-a', 'I-a', 'B-b', 'I-b']
    """
    return sorted(tags, key=lambda tag: (tag != OUTSIDE, tag[2:] if tag[:2] in ("B-", "I-") else tag, tag))


TOKEN_TASKS: dict[str, TokenTask] = {
    # The NCBI disease corpus (Dogan, Leaman and Lu 2014): one type of entity in abstracts of PubMed.
    "ncbi_disease": TokenTask("ncbi_disease", ("O", "B-Disease", "I-Disease")),
}
