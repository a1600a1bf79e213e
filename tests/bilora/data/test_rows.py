import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bilora.data.rows import check_rows, read_rows
from bilora.errors import DataError
from bilora.tasks.catalog import TASKS

SST2 = TASKS["sst2"]
Write = Callable[..., Path]
NAME = "train.jsonl"
GOOD = [{"sentence": f"text {index}", "label": index % 2, "idx": index} for index in range(4)]


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path, SST2, split="train")
    return str(caught.value).replace(str(path), path.name)


def test_a_good_file(write: Write) -> None:
    rows = read_rows(path := write(as_lines(GOOD)), SST2, split="train")
    assert [dict(row) for row in rows] == GOOD
    assert rows.labels == (0, 1, 0, 1) and rows.ids == (0, 1, 2, 3) and rows.lines == (1, 2, 3, 4)
    assert rows.origin(2) == f"{path}:3"


def test_label_names_become_indices_and_line_separators_inside_a_text_do_not_cut_the_line(write: Write) -> None:
    text = "one\u2028two\u0085three\x0cfour"
    content = as_lines([{"sentence": text, "label": "positive"}, {"sentence": "b", "label": 0}])
    rows = read_rows(write(content), SST2, split="train")
    assert (rows.labels, rows[0]["sentence"]) == ((1, 0), text)


def test_rows_are_selected_with_origin_and_id_and_never_changed() -> None:
    rows = check_rows(enumerate(GOOD, start=1), SST2, source="toy", split="train")
    twice = rows.select([3, 0]).select([0])
    assert (twice[0]["idx"], twice.ids, twice.origin(0), len(twice)) == (3, (3,), "toy:4", 1)
    for index in (-1, 4):
        with pytest.raises(DataError, match=f"no row at index {index}; there are 4"):
            rows.select([index])
    with pytest.raises(TypeError):
        rows[0]["label"] = 1  # type: ignore[index]


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


PACKED = gzip.compress(as_lines(GOOD), mtime=0)  # without the time, which two workers would name tests by


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("cut.jsonl", as_lines(GOOD)[:-9], "cut.jsonl:4: is not a JSON object"),
        ("cut.jsonl.gz", PACKED[:-12], "cut.jsonl.gz: cannot be read: "),
        ("plain.jsonl.gz", as_lines(GOOD), "plain.jsonl.gz: cannot be read: "),
        ("damaged.jsonl.gz", PACKED[:10] + b"\xff" * 30, "damaged.jsonl.gz: cannot be read: "),
    ],
)
def test_broken_files_are_named(write: Write, name: str, content: bytes, text: str) -> None:
    assert text in message(write(content, name))


def test_rows_in_memory_are_checked_too() -> None:
    with pytest.raises(DataError, match=r"hub:2 field 'label': is -1 \(int\).*unlabelled"):
        check_rows([(1, GOOD[0]), (2, {"sentence": "a", "label": -1})], SST2, source="hub", split="train")
    with pytest.raises(DataError, match="hub: the validation set has no row; at least one is needed"):
        check_rows([], SST2, source="hub", split="validation")


def test_rows_are_checked_without_loading_torch(write: Write, output_without_torch: Callable[..., str]) -> None:
    path = write(as_lines(GOOD))
    code = (
        "import bilora.data.split; from bilora.data.rows import read_rows; "
        "task = types.SimpleNamespace(check_row=lambda row: (dict(row), [])); "
        f"assert len(read_rows({str(path)!r}, task, split='train')) == {len(GOOD)}; "
        "heavy = {'torch', 'transformers', 'datasets', 'evaluate', 'sklearn', 'scipy', 'betty'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert output_without_torch(code) == "[]"
