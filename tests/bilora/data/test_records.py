import codecs
import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from bilora.data.records import is_untyped, read_records
from bilora.errors import DataError

Write = Callable[..., Path]
NAME = "rows.csv"
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "no last line feed": lambda content: content.removesuffix(b"\n"),
    "windows": lambda content: content.replace(b"\n", b"\r\n"),
    "byte order mark": lambda content: codecs.BOM_UTF8 + content,
    "blank lines at the end": lambda content: content + b"\n\r\n",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("name", "content", "first_line"),
    [
        ("rows.csv", b"text,y\na,1\nb,0\n", 2),
        ("rows.csv", b'"text","y"\n"a","1"\n"b","0"\n', 2),
        ("rows.tsv", b"text\ty\na\t1\nb\t0\n", 2),
        ("rows.jsonl", b'{"text": "a", "y": "1"}\n{"text": "b", "y": "0"}\n', 1),
    ],
)
def test_forms_of_a_good_file(
    write: Write, form: Callable[[bytes], bytes], name: str, content: bytes, first_line: int
) -> None:
    expected = [(first_line, {"text": "a", "y": "1"}, []), (first_line + 1, {"text": "b", "y": "0"}, [])]
    assert read_records(write(form(content), name)) == expected
    assert read_records(write(gzip.compress(form(content)), f"{name}.gz")) == expected


def test_a_line_is_that_on_which_the_record_begins(write: Write) -> None:
    """Held against the text itself: each record's line holds its number."""
    texts = ["0", '1 "said"\n\n\nand', "2\r\nmore", "3, with a comma", "4\u2028five"]
    with (path := write(b"")).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "y"])
        writer.writerows([text, 1] for text in texts)
    lines = path.read_bytes().decode().split("\n")
    records = read_records(path)
    assert [row["text"] for _, row, _ in records] == texts
    for index, (line, _, faults) in enumerate(records):
        assert lines[line - 1].lstrip('"').startswith(str(index))
        assert faults == []


def test_tabs_have_no_quoting(write: Write) -> None:
    """GLUE's own files have texts that begin with a double quote and do not end with one."""
    content = b'text\ty\n"a quote, that stays open\t1\n'
    assert read_records(write(content, "rows.tsv")) == [(2, {"text": '"a quote, that stays open', "y": "1"}, [])]


def test_a_wrong_number_of_fields_is_a_fault_of_the_line(write: Write) -> None:
    records = read_records(write(b"text,y\na,1\nb, c,0\nd\n\ne,1\n"))
    assert [line for line, _, _ in records] == [2, 3, 4, 5, 6]
    faults = [of_line[0].at("f", line) if of_line else None for line, _, of_line in records]
    assert faults[0] is faults[4] is None
    assert faults[1].startswith("f:3: has 3 fields, but the first line names 2 (text, y)")
    assert faults[2].startswith("f:4: has 1 fields")
    assert faults[3].startswith("f:5: the line is blank")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'text,y\na,1\n"b,0\nc,1\n', r"rows\.csv:3: the record that begins here is broken"),
        ("text,y\nétoile,1\n".encode() + b"caf\xe9,0\n", r"rows\.csv:3: byte 4 is not UTF-8"),
        (b"text,y,y\na,1,2\n", r"rows\.csv:1: column 'y' is there twice"),
    ],
    ids=["open quote", "one broken line", "a column twice"],
)
def test_broken_files_are_named_by_line(write: Write, content: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text):
        read_records(write(content))


@pytest.mark.parametrize("content", [b"", b"\n\n", codecs.BOM_UTF8, b"  \n"])
def test_no_record(write: Write, content: bytes) -> None:
    assert read_records(write(content, "rows.jsonl")) == []
    assert read_records(write(content)) == read_records(write(b"text,y\n")) == []


def test_a_text_of_a_megabyte_leaves_the_limit_of_the_csv_module_as_it_was(write: Write) -> None:
    before = csv.field_size_limit()
    ((_, row, _),) = read_records(write(b"text,y\n" + b"a" * 1_000_000 + b",1\n"))
    assert len(row["text"]) == 1_000_000
    assert csv.field_size_limit() == before


def test_parquet_keeps_types(tmp_path: Path) -> None:
    rows = [{"text": "a", "y": 1.5, "tags": ["O"]}, {"text": None, "y": 2.0, "tags": []}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    assert read_records(tmp_path / "rows.parquet") == [(1, rows[0], []), (2, rows[1], [])]


def test_broken_parquet_unknown_forms_and_those_without_types(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows\.parquet: cannot be read"):
        read_records(write(b"PAR1 no", "rows.parquet"))
    with pytest.raises(
        DataError, match=r"rows\.xls: the name ends in none of \.jsonl, \.json, \.csv, \.tsv, \.parquet, \.xlsx"
    ):
        read_records(write(b"", "rows.xls"))
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        read_records("none.csv")
    assert [name for name in ("a.csv", "a.tsv.gz", "a.jsonl", "a.parquet") if is_untyped(name)] == ["a.csv", "a.tsv.gz"]
