from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bilora.data.rows
from bilora.data.rows import check_rows, read_rows
from bilora.errors import DataError
from bilora.tasks.catalog import TASKS

SST2 = TASKS["sst2"]
GOOD = [{"sentence": f"text {index}", "label": index % 2, "idx": index} for index in range(4)]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_bytes(content: bytes, name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write_bytes


def as_lines(rows: list[Any], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path, SST2, split="train")
    return str(caught.value).replace(str(path), path.name)


@pytest.mark.parametrize(
    "content",
    [
        as_lines(GOOD),
        as_lines(GOOD).removesuffix(b"\n"),
        as_lines(GOOD, end="\r\n"),
        b"\xef\xbb\xbf" + as_lines(GOOD),
        as_lines(GOOD) + b"\n \r\n\n",
    ],
    ids=["plain", "no last line feed", "windows", "byte order mark", "blank lines at the end"],
)
def test_forms_of_a_good_file(write: Write, content: bytes) -> None:
    for path in (write(content), write(gzip.compress(content), "train.jsonl.gz")):
        rows = read_rows(path, SST2, split="train")
        assert [dict(row) for row in rows] == GOOD
        assert rows.labels == (0, 1, 0, 1) and rows.ids == (0, 1, 2, 3) and rows.lines == (1, 2, 3, 4)
        assert rows.origin(2) == f"{path}:3"


def test_label_names_become_indices(write: Write) -> None:
    path = write(as_lines([{"sentence": "a", "label": "positive"}, {"sentence": "b", "label": 0}]))
    assert read_rows(path, SST2, split="train").labels == (1, 0)


def test_line_separators_inside_a_text_do_not_cut_the_line(write: Write) -> None:
    text = "one\u2028two\u0085three\x0cfour"
    assert read_rows(write(as_lines([{"sentence": text, "label": 1}])), SST2, split="train")[0]["sentence"] == text


def test_rows_cannot_be_changed(write: Write) -> None:
    rows = read_rows(write(as_lines(GOOD)), SST2, split="train")
    with pytest.raises(TypeError):
        rows[0]["label"] = 1  # type: ignore[index]


def test_select_keeps_origin_and_id(write: Write) -> None:
    path = write(as_lines(GOOD))
    rows = read_rows(path, SST2, split="train").select([3, 0]).select([0])
    assert (rows[0]["idx"], rows.ids, rows.origin(0), len(rows)) == (3, (3,), f"{path}:4", 1)


@pytest.mark.parametrize("index", [-1, 4])
def test_select_refuses_what_is_not_there(write: Write, index: int) -> None:
    with pytest.raises(DataError, match=f"no row at index {index}; there are 4"):
        read_rows(write(as_lines(GOOD)), SST2, split="train").select([index])


def test_faults_of_all_kinds_with_their_lines(write: Write) -> None:
    content = as_lines([GOOD[0], {"sentence": "", "label": 9}])
    content += b'{"sentence": "cut\n' + b"\n" + b'{"sentence": "caf\xe9", "label": 1}\n' + b'{"label": NaN}\n'
    assert message(write(content)).split("\n") == [
        "train.jsonl: 7 faults in the rows",
        "  train.jsonl:2 field 'sentence': is empty; every row needs text",
        "  train.jsonl:2 field 'label': is 9 (int); allowed: 0 to 1, or one of negative, positive",
        "  train.jsonl:3: is not a JSON object: Unterminated string starting at column 14",
        "  train.jsonl:4: the line is blank; only the end of a file may have blank lines",
        "  train.jsonl:5: byte 18 is not UTF-8; save the file as UTF-8",
        "  and 2 more",
    ]


def test_a_line_cut_by_a_full_disk(write: Write) -> None:
    assert "train.jsonl:4: is not a JSON object" in message(write(as_lines(GOOD)[:-9]))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \n"])
def test_no_row(write: Write, content: bytes) -> None:
    assert message(write(content)) == "train.jsonl: the train set has no row; at least one is needed"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (gzip.compress(as_lines(GOOD))[:-12], "train.jsonl.gz"),
        (as_lines(GOOD), "train.jsonl.gz"),
        (gzip.compress(as_lines(GOOD))[:10] + b"\xff" * 30, "train.jsonl.gz"),
    ],
    ids=["cut", "not gzip", "damaged"],
)
def test_a_broken_gzip_file(write: Write, content: bytes, name: str) -> None:
    assert message(write(content, name)).startswith("train.jsonl.gz: cannot be read: ")


def test_a_missing_file_and_an_unknown_form(tmp_path: Path, write: Write) -> None:
    assert message(tmp_path / "none.jsonl").startswith("none.jsonl: cannot be read: ")
    assert "ends in none of .jsonl, .csv, .tsv, .parquet" in message(write(b"a,b", "train.txt"))


def test_rows_in_memory_are_checked_too() -> None:
    with pytest.raises(DataError, match=r"hub:2 field 'label': is -1 \(int\).*unlabelled"):
        check_rows([(1, GOOD[0]), (2, {"sentence": "a", "label": -1})], SST2, source="hub", split="train")
    with pytest.raises(DataError, match="hub: the validation set has no row"):
        check_rows([], SST2, source="hub", split="validation")


def test_rows_are_checked_without_loading_torch(write: Write) -> None:
    path = write(as_lines(GOOD))
    # A bare package stands in for bilora, whose __init__ brings in the adapters and with them torch.
    code = (
        "import sys, types; sys.modules['bilora'] = package = types.ModuleType('bilora'); "
        f"package.__path__ = [{str(Path(bilora.__file__).parent)!r}]; "
        "import bilora.data.split; from bilora.data.rows import read_rows; "
        "task = types.SimpleNamespace(check_row=lambda row: (dict(row), [])); "
        f"assert len(read_rows({str(path)!r}, task, split='train')) == {len(GOOD)}; "
        "heavy = {'torch', 'transformers', 'datasets', 'evaluate', 'sklearn', 'scipy', 'betty'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
