from typing import Any

import pytest

from bilora.data.faults import Fault, parse_line, refuse
from bilora.errors import DataError
from bilora.tasks.catalog import TASKS, Task
from bilora.tasks.text.rows import check_row

SST2, STSB, MNLI = TASKS["sst2"], TASKS["stsb"], TASKS["mnli"]
SIMILARITY = Task("similarity", ("text",), None, metric="pearson")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"sentence": "cut', "is not a JSON object: Unterminated string"),
        (b'{"sentence": "a", "label": }', "is not a JSON object: Expecting value at column 28"),
        (b'{"a": 1} {"a": 2}', "is not a JSON object: Extra data at column 10"),
        (b"{'a': 1}", "is not a JSON object"),
        (b'["a", 1]', "is not a JSON object but ['a', 1]"),
        (b"NaN", "is not a JSON object but 'NaN'"),
        (b"   ", "the line is blank"),
        (b"", "the line is blank"),
        ("caf\u00e9".encode("latin-1"), "byte 4 is not UTF-8"),
        ("{}".encode("utf-16"), "byte 1 is not UTF-8"),
        (b'{"label": 0, "label": 1}', "field 'label' is given more than once"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"label": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
    ],
)
def test_a_broken_line_is_one_fault_of_the_whole_line(line: bytes, text: str) -> None:
    row, faults = parse_line(line)
    assert row == {} and len(faults) == 1
    assert faults[0].field is None and text in faults[0].text


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_literals_that_json_has_not_are_told_once_by_field(literal: str) -> None:
    row, faults = parse_line(f'{{"sentence": "{literal}", "label": {literal}}}'.encode())
    assert faults == [Fault("label", f"{literal} is not a JSON value; give a finite number")]
    assert check_row(row, SST2) == (None, [])
    assert check_row({"sentence1": "a", "sentence2": "b", "label": row["label"]}, STSB) == (None, [])
    row, faults = parse_line(f'{{"sentence": {literal}, "label": 1}}'.encode())
    assert [fault.field for fault in faults] == ["sentence"]
    assert check_row(row, SST2) == (1, [])


def read_label(task: Task, label: Any) -> tuple[Any, list[Fault]]:
    return check_row({**dict.fromkeys(task.text_fields, "a"), "label": label}, task)


@pytest.mark.parametrize(
    ("task", "label", "expected"),
    [(MNLI, 0, 0), (MNLI, 2, 2), (MNLI, "neutral", 1), (STSB, 0, 0.0), (STSB, 5, 5.0), (SIMILARITY, -123.5, -123.5)],
)
def test_labels_become_class_indices_or_numbers(task: Task, label: Any, expected: float) -> None:
    value, faults = read_label(task, label)
    assert (value, faults) == (expected, []) and type(value) is type(expected)


CLASSES = "allowed: 0 to 1, or one of negative, positive"
UNLABELLED = "; -1 is the mark of unlabelled test rows"


@pytest.mark.parametrize(
    ("task", "label", "text"),
    [
        (SST2, -1, f"is -1 (int); {CLASSES}{UNLABELLED}"),
        (SST2, 2, f"is 2 (int); {CLASSES}"),
        (SST2, 1.0, f"is 1.0 (float); {CLASSES}"),
        (SST2, 0.5, f"is 0.5 (float); {CLASSES}"),
        (SST2, True, f"is True (bool); {CLASSES}"),
        (SST2, None, f"is None (NoneType); {CLASSES}"),
        (SST2, "1", f"is '1' (str); {CLASSES}"),
        (SST2, "Positive", f"is 'Positive' (str); {CLASSES}"),
        (SST2, [1], f"is [1] (list); {CLASSES}"),
        (SST2, float("nan"), f"is nan (float); {CLASSES}"),
        (STSB, -1, f"is -1; allowed: 0 to 5{UNLABELLED}"),
        (STSB, -1.0, f"is -1.0; allowed: 0 to 5{UNLABELLED}"),
        (STSB, 5.1, "is 5.1; allowed: 0 to 5"),
        (STSB, float("nan"), "is nan; allowed: 0 to 5"),
        (STSB, True, "is True (bool); a number is needed"),
        (STSB, "3.0", "is '3.0' (str); a number is needed"),
        (SIMILARITY, float("inf"), "is inf; allowed: a finite number"),
        (SIMILARITY, -float("inf"), "is -inf; allowed: a finite number"),
        (SIMILARITY, 10**400, "is 100000000000000000...0000000000000000000; allowed: a finite number"),
    ],
)
def test_labels_at_fault(task: Task, label: Any, text: str) -> None:
    assert read_label(task, label) == (None, [Fault("label", text)])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        (" \t\u00a0\n", "is empty"),
        (7, "is 7 (int); text is needed"),
        (None, "is None (NoneType); text is needed"),
        (["a"], "is ['a'] (list); text is needed"),
        ("half \ud83d", "half of a surrogate pair"),
    ],
)
def test_text_at_fault(text: Any, fault: str) -> None:
    label, faults = check_row({"sentence": text, "label": 1}, SST2)
    assert label == 1 and len(faults) == 1
    assert faults[0].field == "sentence" and fault in faults[0].text


def test_every_field_at_fault_is_told() -> None:
    _, faults = check_row({"premise": "", "Hypothesis": "b"}, MNLI)
    assert [fault.field for fault in faults] == ["premise", "hypothesis", "label"]
    assert faults[1].text == "is missing; the row has premise, Hypothesis. Did you mean 'Hypothesis'?"


def test_a_value_of_a_megabyte_does_not_fill_the_screen() -> None:
    _, faults = check_row({"sentence": "x" * 1_000_000, "label": "y" * 1_000_000}, SST2)
    assert len(faults) == 1 and len(faults[0].text) < 200


@pytest.mark.parametrize(("count", "last", "lines"), [(1, "  a:1", 2), (5, "  a:5", 6), (6, "  and 1 more", 7)])
def test_first_five_faults_and_the_count_of_the_rest(count: int, last: str, lines: int) -> None:
    with pytest.raises(DataError) as caught:
        refuse([f"a:{number}" for number in range(1, count + 1)], source="a")
    text = str(caught.value).split("\n")
    assert text[-1] == last and len(text) == lines
    assert text[0] == f"a: {count} fault{'s' if count > 1 else ''} in the rows"
