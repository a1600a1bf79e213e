"""Structured inputs as one line of text, in the form of the LoRA paper's code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# How that code writes the slots of an E2E meaning representation whose name is no plain word.
_E2E_SLOTS = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}

_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")


def linearize_slots(text: str) -> str:
    """Return an E2E meaning representation as ``slot : value | slot : value``.

    The form of https://github.com/microsoft/LoRA, examples/NLG, data/e2e.

    Args:
        text: Such as ``name[Alimentum], familyFriendly[no]``.

    Raises:
        ValueError: The text is not a list of slots with values.

    Example:
        >>> linearize_slots("name[Alimentum], eatType[pub], familyFriendly[no]")
        'name : Alimentum | Type : pub | family friendly : no'
    """
    slots, end = [], 0
    while end < len(text):
        found = _SLOT.match(text, end)
        if found is None:
            raise ValueError(f"is no list of slots like 'name[Alimentum], area[riverside]' from character {end + 1} on")
        slots.append((found[1].strip(), found[2]))
        end = found.end()
    return " | ".join(f"{_E2E_SLOTS.get(name, name)} : {value}" for name, value in slots)


def linearize_triples(triples: Iterable[Sequence[str]], *, lowercase_properties: bool) -> str:
    """Return triples as ``subject : property : object | subject : property : object``.

    The form of https://github.com/microsoft/LoRA, examples/NLG/src/format_converting_webnlg.py and _dart.py; the
    latter puts properties in lower case.

    Args:
        triples: Subject, property and object of each.
        lowercase_properties: As for DART.

    Example:
        >>> linearize_triples([("Mars Hill College", "JOINED", "1973")], lowercase_properties=True)
        'Mars Hill College : joined : 1973'
    """
    cased = str.lower if lowercase_properties else str
    return " | ".join(f"{subject} : {cased(name)} : {value}" for subject, name, value in triples)
