"""Files as people have them: other encodings, delimiters and forms, and no header; what was understood is said."""

import json
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bilora.data.records import read_records
from bilora.errors import DataError

Write = Callable[..., Path]
NAME = "rows.csv"
ROWS = [{"text": "un café très bon", "label": "pos"}, {"text": "déjà vu, hélas", "label": "neg"}]


def rows_of(path: Path) -> list[dict[str, Any]]:
    records = read_records(path)
    assert all(faults == [] for _, _, faults in records)
    return [row for _, row, _ in records]


def delimited(delimiter: str) -> str:
    lines = ["text,label", *('"{text}",{label}'.format(**row) for row in ROWS)]
    return (
        "".join(f"{line}\n" for line in lines)
        .replace("text,label", f"text{delimiter}label")
        .replace('",', f'"{delimiter}')
    )


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("latin-1", "cp1252"), ("cp1252", "cp1252"), ("utf-16", "utf-16"), ("utf-16-le", None), ("utf-32", "utf-32")],
)
def test_other_encodings_are_read_and_said(write: Write, encoding: str, name: str | None) -> None:
    path = write(delimited(",").encode(encoding))
    if name is None:  # without its mark it could be anything
        with pytest.raises(DataError):
            rows_of(path)
        return
    with pytest.warns(RuntimeWarning, match=f"rows.csv: is not UTF-8, and was read as {name}"):
        assert rows_of(path) == ROWS


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy"),
        ("cp1251", "очень хороший фильм, правда"),
        ("cp1252", "It’s “great” – naïve"),
    ],
)
def test_encodings_of_other_languages(write: Write, encoding: str, text: str) -> None:
    content = "text\tlabel\n" + f"{text}\tpos\n" * 3
    with pytest.warns(RuntimeWarning, match=f"read as {encoding}"):
        assert rows_of(write(content.encode(encoding), "rows.tsv"))[0] == {"text": text, "label": "pos"}


def test_encodings_that_are_told_apart_badly_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match="rows.csv:2: byte 1 is not UTF-8; save the file as UTF-8"):
        rows_of(write("text,label\nとても良い映画です,pos\n".encode("cp932")))


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_other_delimiters_are_read_and_said(write: Write, delimiter: str, name: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"the columns are parted by a {name}"):
        assert rows_of(write(delimited(delimiter).encode())) == ROWS


@pytest.mark.parametrize(
    "content", ["text,label\na; b,1\nc; d,0\n", "text\na; b\nc\n", "text;more,label\na;1,2\nb;1,3\n", "text\nno, no\n"]
)
def test_a_comma_that_fits_is_the_delimiter(write: Write, content: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = {name for _, row, _ in read_records(write(content.encode())) for name in row}
    assert names <= set(content.splitlines()[0].split(","))


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("good film,1\nbad film,0\n", False),
        ("good film,pos\nbad film,neg\nfine film,pos\n", False),
        ("text,0\ngood film,1\nbad film,0\n", True),  # as pandas writes a series without a name
        ("what do you think,mark\ngood,a\nbad,b\n", True),
        (",words,mark\n0,good,a\n1,bad,b\n", True),
        ("words,mark\ngood,a\nwords,mark\nbad,b\n", True),  # two files put together
        ("good film,1\n", True),  # nothing to compare it with
    ],
)
def test_a_first_row_of_values_is_a_row(write: Write, content: str, header: bool) -> None:
    lines = content.splitlines()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        records = read_records(write(content.encode()))
    assert len(records) == len(lines) - header
    names = lines[0].split(",") if header else ["column_1", "column_2"]
    assert all(list(row) == names for _, row, _ in records)
    assert ["first row is no header" in str(warning.message) for warning in told] == [True] * (not header)


JSON = {
    "array": ROWS,
    "columns": {"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]},
    "wrapped": {"version": "1.0", "data": ROWS},
}


@pytest.mark.parametrize("form", JSON)
def test_json_of_every_form(write: Write, form: str) -> None:
    assert rows_of(write(json.dumps(JSON[form], indent=1).encode(), "rows.json")) == ROWS


def test_json_lines_by_the_name_of_json(write: Write) -> None:
    assert rows_of(write("".join(f"{json.dumps(row)}\n" for row in ROWS).encode(), "rows.json")) == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", r"rows\.json:1: column 6: .*; it is no JSON"),
        ('{"a": 1}', "holds neither an array of objects, nor an object of arrays"),
        ('{"a": [1], "b": [1, 2]}', "of arrays of one length"),
        ("3", "holds neither"),
        ('[{"a": 1, "a": 2}]', "field 'a' is given more than once"),
    ],
)
def test_json_of_no_rows_is_refused(write: Write, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_records(write(content.encode(), "rows.json"))


def test_faults_of_single_rows_of_an_array(write: Write) -> None:
    records = read_records(write(b'[{"a": 1}, 3, {"a": NaN}]', "rows.json"))
    assert [[fault.text for fault in faults] for _, _, faults in records] == [
        [],
        ["is not a JSON object but 3"],
        ["NaN is not a JSON value; give a finite number"],
    ]


def test_a_spreadsheet(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for cells in (["text", "label", "day"], ["a, b", 1, date(2026, 1, 2)], ["c", 0, None], []):
        book.active.append(cells)
    book.create_sheet("notes").append(["not a row"])
    book.save(tmp_path / "rows.xlsx")
    with pytest.warns(RuntimeWarning, match="of its 2 sheets the first, 'Sheet', was read"):
        rows = rows_of(tmp_path / "rows.xlsx")
    assert rows == [{"text": "a, b", "label": 1, "day": "2026-01-02T00:00:00"}, {"text": "c", "label": 0, "day": None}]


def test_what_is_no_spreadsheet_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows\.xlsx: cannot be read: File is not a zip file"):
        read_records(write(b"text,label", "rows.xlsx"))


def test_a_spreadsheet_without_the_package(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"run pip install 'bilora\[xlsx\]'"):
        read_records(write(b"", "rows.xlsx"))
