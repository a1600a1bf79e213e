from __future__ import annotations

import itertools

import pytest

from bilora.metrics.entities import entities

# Written out by hand from the definition: an entity begins with B and goes on while I of its type follows.
CASES = [
    ("", []),
    ("O O", []),
    ("B-a", ["a 0-1"]),
    ("B-a I-a I-a", ["a 0-3"]),
    ("B-a B-a", ["a 0-1", "a 1-2"]),
    ("B-a O I-a", ["a 0-1"]),
    ("I-a I-a", []),
    ("O I-a B-a", ["a 2-3"]),
    ("B-a I-b", ["a 0-1"]),
    ("B-a I-b I-a", ["a 0-1"]),
    ("B-a I-a B-b I-b O B-a", ["a 0-2", "b 2-4", "a 5-6"]),
    ("O B-a-b I-a-b", ["a-b 1-3"]),
]


@pytest.mark.parametrize(("tags", "expected"), CASES)
def test_strict_iob2(tags: str, expected: list[str]) -> None:
    found = {f"{kind} {start}-{end}" for kind, start, end in entities(tags.split())}
    assert found == set(expected)


def test_every_sequence_of_four_tags_against_its_definition() -> None:
    """By brute force: (x, i, j) is an entity when tag i is B-x, those up to j are I-x, and tag j is not."""
    for tags in itertools.product(["O", "B-a", "I-a", "B-b", "I-b"], repeat=4):
        padded = [*tags, "O"]
        expected = {
            (kind, start, end)
            for kind in "ab"
            for start in range(4)
            for end in range(start + 1, 5)
            if padded[start] == f"B-{kind}"
            and all(tag == f"I-{kind}" for tag in padded[start + 1 : end])
            and padded[end] != f"I-{kind}"
        }
        assert entities(tags) == expected, tags
