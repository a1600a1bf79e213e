"""Inputs as lines, held against the lines that come with the real data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bilora.tasks.catalog import GENERATION_TASKS
from bilora.tasks.generation.prompts import linearize_slots, linearize_triples


def lines(path: Path) -> list[dict[str, Any]]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("e2e", "train.jsonl.gz"),
        ("e2e", "validation.jsonl"),
        ("e2e", "test.jsonl"),
        ("dart", "validation.jsonl.gz"),
        ("dart", "test.jsonl.gz"),
    ],
)
def test_real_inputs_become_the_lines_of_the_lora_papers_code(real_data: Path, task: str, file: str) -> None:
    rows = lines(real_data / task / file)
    for row in rows:
        checked, faults = GENERATION_TASKS[task].check_row(row)
        assert not faults
        assert checked["source"] == " ".join(row["source"].split())
        texts = [" ".join(each.split()) for each in row["references"]]
        assert checked["references"] == [each for each in texts if each]
        assert checked["blank"] == texts.count("")
        assert checked["label"] is None


def test_only_dart_puts_properties_in_lower_case() -> None:
    row = {"triples": [["Zizzi", "eatType", "pub"]], "references": ["Zizzi is a pub."]}
    sources = {name: task.check_row(row)[0]["source"] for name, task in GENERATION_TASKS.items()}
    assert sources["webnlg"] == "Zizzi : eatType : pub"
    assert sources["dart"] == "Zizzi : eattype : pub"


def test_several_triples_are_joined() -> None:
    triples = [("A", "b", "C"), ("D", "e", "F, G")]
    assert linearize_triples(triples, lowercase_properties=False) == "A : b : C | D : e : F, G"


@pytest.mark.parametrize(
    ("text", "character"), [("name", 1), ("name[Zizzi", 1), ("name[Zizzi] food[x]", 1), ("a[b], c", 6)]
)
def test_what_is_no_list_of_slots_is_refused(text: str, character: int) -> None:
    with pytest.raises(ValueError, match=f"from character {character} on"):
        linearize_slots(text)
