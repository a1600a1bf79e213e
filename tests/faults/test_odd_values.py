"""Values that no column should hold, in every form of file: one line with the file, the line and the field."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from watched_command import QUICK, ended

from bilora.tasks.labelled_files import load_labelled_files
from bilora.tasks.labels import LabelledFiles

DIGITS = "9" * 5000
# Half of a pair of UTF-16, as UTF-8 would write it if it could, and a byte that begins no character.
HALF, BROKEN = b"\xed\xa0\x80", b"caf\xe9 au lait"
BAD = 17  # the row that is odd, counted from 1
Cell = Any
Row = dict[str, Cell]


def _rows(**odd: Cell) -> list[Row]:
    rows: list[Row] = [{"text": f"a film {i}", "label": ("bad", "good")[i % 2]} for i in range(40)]
    rows[BAD - 1] |= odd
    return rows


def _json(value: Cell) -> bytes:
    if isinstance(value, bytes):
        # Half a character comes as an escape; other bytes come as they are.
        return rb'"\ud800"' if value == HALF else b'"%s"' % value
    return value[4:].encode() if isinstance(value, str) and value.startswith("raw:") else json.dumps(value).encode()


def _jsonl(rows: Sequence[Row]) -> bytes:
    lines = [b", ".join(b"%s: %s" % (_json(name), _json(value)) for name, value in row.items()) for row in rows]
    return b"".join(b"{%s}\n" % line for line in lines)


def _delimited(rows: Sequence[Row], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    for cells in (rows[0], *(row.values() for row in rows)):
        words = [cell.decode("latin-1") if isinstance(cell, bytes) else cell for cell in cells]
        writer.writerow([word.removeprefix("raw:") if isinstance(word, str) else word for word in words])
    return text.getvalue().encode("latin-1")


def _parquet(rows: Sequence[Row]) -> bytes:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for name, cells in columns.items():
        if any(isinstance(cell, bytes) for cell in cells):
            raw = [cell if isinstance(cell, bytes) else cell.encode() for cell in cells]
            columns[name] = pyarrow.Array.from_buffers(pyarrow.string(), len(raw), pyarrow.array(raw).buffers())
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


WRITERS: dict[str, tuple[Callable[[Sequence[Row]], bytes], int]] = {
    "jsonl": (_jsonl, BAD),
    "csv": (lambda rows: _delimited(rows, ","), BAD + 1),
    "tsv": (lambda rows: _delimited(rows, "\t"), BAD + 1),
    "parquet": (_parquet, BAD),
}
"""How a form is written, and the line of the odd row."""

ODD: dict[str, tuple[list[Row], str, tuple[str, ...]]] = {
    "label is an object": (_rows(label={"a": 1}), "every row needs a label", ("jsonl",)),
    "label is a list": (_rows(label=["good"]), "every row needs a label", ("jsonl",)),
    "label is a list of lists": (_rows(label=[[1], {}]), "every row needs a label", ("jsonl",)),
    "label of 5,000 digits": (_rows(label=f"raw:{DIGITS}"), "digits|at most 1,000", ("jsonl", "csv", "tsv")),
    "label of 5,000 digits in quotes": (_rows(label=DIGITS), "at most 1,000", ("jsonl", "parquet")),
    "text of 5,000 digits": (_rows(text=f"raw:{DIGITS}"), "digits", ("jsonl",)),
    "half a character in a text": (_rows(text=HALF), "half a character|not UTF-8", tuple(WRITERS)),
    "half a character in a label": (_rows(label=HALF), "half a character|not UTF-8", tuple(WRITERS)),
    "broken UTF-8 in a text": (_rows(text=BROKEN), "not UTF-8", tuple(WRITERS)),
    "broken UTF-8 in a label": (_rows(label=BROKEN), "not UTF-8", tuple(WRITERS)),
}


@pytest.mark.parametrize(
    ("kind", "form"), [(kind, form) for kind, (_, _, forms) in ODD.items() for form in forms], ids=str
)
def test_an_odd_value_is_named_by_file_and_line(kind: str, form: str, tiny_encoder: Path, tmp_path: Path) -> None:
    rows, said, _ = ODD[kind]
    write, line = WRITERS[form]
    path = tmp_path / f"rows.{form}"
    path.write_bytes(write(rows))
    end = ended(["train", "--model", str(tiny_encoder), "--train-file", str(path), *QUICK])
    assert end.code == 2
    assert f"{path}:{line}" in end.said
    assert any(part in end.said for part in said.split("|")), end.said
    assert len(end.said) < 1000


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_labels_that_are_all_objects(form: str, tiny_encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{form}"
    path.write_bytes(WRITERS[form][0]([{"text": f"a film {i}", "label": {"a": i % 2}} for i in range(40)]))
    end = ended(["train", "--model", str(tiny_encoder), "--train-file", str(path), *QUICK])
    assert end.code == 2
    assert f"{path}: the labels in 'label' are no names, but as {{'a': 0}}" in end.said


@pytest.mark.parametrize("form", WRITERS)
def test_a_broken_row_is_left_out_where_that_is_asked(form: str, tmp_path: Path) -> None:
    """A form of lines has no rows any more where a byte is wrong, so csv and tsv are refused as before."""
    path = tmp_path / f"rows.{form}"
    path.write_bytes(WRITERS[form][0](_rows(text=BROKEN)))
    files = LabelledFiles(str(path), ("text",), on_bad_row="skip", validation_share=0.0)
    if form in ("csv", "tsv"):
        with pytest.raises(ValueError, match="not UTF-8"):
            load_labelled_files(files)
        return
    with pytest.warns(RuntimeWarning, match=rf"1 of 40 rows is left out.*\n.*:{BAD} field|{BAD}: byte"):
        rows = load_labelled_files(files)
    assert [row_id for row_id in range(40) if row_id not in rows.train.ids] == [BAD - 1]


@pytest.mark.parametrize("form", WRITERS)
def test_long_names_and_values_are_taken(form: str, tmp_path: Path) -> None:
    """300 characters are no fault in a text, a label, or the name of a column."""
    column, label = "c" * 300, "g" * 300
    rows = [{"text": f"{'long ' * 60}{i}", column: ("bad", label)[i % 2]} for i in range(40)]
    path = tmp_path / f"rows.{form}"
    path.write_bytes(WRITERS[form][0](rows))
    loaded = load_labelled_files(LabelledFiles(str(path), ("text",), label_column=column))
    assert loaded.task.label_names == ("bad", label)
    assert {row["text"] for row in loaded.train} <= {row["text"] for row in rows}


LONG = "n" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--model", "MODEL", "--train-file", f"{LONG}.jsonl"],
        ["train", "--model", "MODEL", "--train-file", "ROWS", "--output", LONG, *QUICK],
        ["train", "--model", LONG, "--train-file", "ROWS", *QUICK],
        ["train", "--config", f"{LONG}.yaml"],
        ["train", "--resume", LONG],
        ["doctor", "--model", "MODEL", "--train-file", "ROWS", "--output", LONG, *QUICK],
        ["predict", LONG, "--file", "ROWS"],
        ["predict", "RUN", "--file", f"{LONG}.jsonl", "--device", "cpu"],
        ["predict", "RUN", "--file", "ROWS", "--output", LONG],
        ["predict", "RUN", "--file", "ROWS", "--model", LONG],
        ["evaluate", "RUN", "--data", "ROWS", "--output", LONG],
        ["export", "RUN", "--output", LONG],
        ["merge", "RUN", "--output", LONG],
        ["report", LONG],
        ["report", "RUN", "--output", f"{LONG}.html"],
        ["init", "--output", f"{LONG}.yaml"],
    ],
    ids=lambda words: "_".join(words).replace(LONG, "LONG")[:60],
)
def test_a_name_that_is_too_long_for_a_file(
    words: list[str], interrupted_run: Path, tiny_encoder: Path, review_file: Path
) -> None:
    paths = {"MODEL": tiny_encoder, "ROWS": review_file, "RUN": interrupted_run}
    end = ended([str(paths.get(word, word)) for word in words])
    assert end.code == 2
    assert "n" * 50 in end.said + end.printed
    assert list(Path().iterdir()) == []
