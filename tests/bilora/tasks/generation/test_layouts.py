"""Rows in every layout that data-to-text sets come in, and what is said of faulty ones."""

from typing import Any

import pytest

from bilora.tasks.catalog import GENERATION_TASKS

TRIPLE = ["Zizzi", "eatType", "pub"]

LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "e2e official": ("e2e", {"mr": "name[Zizzi], eatType[pub]", "ref": "Zizzi is a pub."}),
    "e2e hub": ("e2e", {"meaning_representation": "name[Zizzi], eatType[pub]", "human_reference": "Zizzi is a pub."}),
    "own": ("webnlg", {"source": "Zizzi : eatType : pub", "references": ["Zizzi is a pub."]}),
    "triples": ("webnlg", {"triples": [TRIPLE], "source": "something else", "references": ["Zizzi is a pub."]}),
    "dart official": ("webnlg", {"tripleset": [TRIPLE], "annotations": [{"source": "x", "text": "Zizzi is a pub."}]}),
    "dart hub": ("webnlg", {"tripleset": [TRIPLE], "annotations": {"source": ["x"], "text": ["Zizzi is a pub."]}}),
    "webnlg official": (
        "webnlg",
        {
            "modifiedtripleset": [dict(zip(("subject", "property", "object"), TRIPLE, strict=True))],
            "lexicalisations": [
                {"comment": "good", "lex": "Zizzi is a pub."},
                {"comment": "toFix", "lex": "Zizzi pub."},
            ],
        },
    ),
    "webnlg hub": (
        "webnlg",
        {
            "modified_triple_sets": {"mtriple_set": [["Zizzi | eatType | pub"]]},
            "lex": {"comment": ["toFix", "good"], "text": ["Zizzi pub.", "Zizzi is a pub."]},
        },
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_input_and_references(layout: str) -> None:
    name, row = LAYOUTS[layout]
    checked, faults = GENERATION_TASKS[name].check_row(row)
    assert faults == []
    assert checked["source"] == ("name : Zizzi | Type : pub" if name == "e2e" else "Zizzi : eatType : pub")
    assert checked["references"] == ["Zizzi is a pub."]


GOOD = {"source": "a", "references": ["b"]}


@pytest.mark.parametrize(
    ("row", "field", "text"),
    [
        ({"references": ["b"]}, None, "holds the input in no known field"),
        ({"source": "a"}, None, "holds the references in no known field"),
        (GOOD | {"source": 3}, "source", "is int; text is needed"),
        (GOOD | {"source": " "}, "source", "is empty"),
        (GOOD | {"source": "\ud800"}, "source", "surrogates not allowed"),
        (GOOD | {"references": "b"}, "references", "is str; a list of texts is needed"),
        (GOOD | {"references": []}, "references", "has no text"),
        (GOOD | {"references": ["", " "]}, "references", "has no text"),
        (GOOD | {"references": [None]}, "references", "text 1 is NoneType, not text"),
        (GOOD | {"triples": []}, "triples", "is no list of triples"),
        (GOOD | {"triples": [["a", "b"]]}, "triples", "triple 1 is not a list of three texts"),
        (GOOD | {"triples": [["a", "b", 3]]}, "triples", "triple 1 is not a list of three texts"),
        (GOOD | {"modifiedtripleset": [{"subject": "a"}]}, "modifiedtripleset", "does not have the form"),
        (GOOD | {"modified_triple_sets": []}, "modified_triple_sets", "does not have the form"),
        ({"source": "a", "annotations": [{}]}, "annotations", "does not have the form"),
        ({"source": "a", "lex": {"comment": ["toFix"], "text": ["b"]}}, "lex", "no text that is marked as good"),
        ({"source": "a", "lex": {"comment": [], "text": ["b"]}}, "lex", "shorter"),
    ],
)
def test_faults_name_field_and_reason(row: dict[str, Any], field: str | None, text: str) -> None:
    _, faults = GENERATION_TASKS["webnlg"].check_row(row)
    assert [fault.field for fault in faults] == [field]
    assert text in faults[0].text
