"""Files read in parts give the records of files read at once, in memory that does not grow with them."""

import gzip
import tracemalloc
from itertools import chain
from pathlib import Path

import pandas
import pytest

from bilora.data import chunks
from bilora.data.chunks import open_chunks
from bilora.data.records import read_records
from bilora.errors import DataError

CONTENTS = {
    "rows.csv": b'text,id\n"a\nb, c",1\n\nd,2\ne\nf,3\n\n\n',
    "bom.csv": b"\xef\xbb\xbftext;id\r\na;1\r\nb;2\r\n",
    "latin.csv": "text,id\nun café,1\ndéjà vu,2\nhélas,3\n".encode("latin-1"),
    "wide.csv": "text\tid\na\t1\nb\t2\n".encode("utf-16"),
    "bare.csv": b"good film,1\nbad film,0\nfine film,1\n",
    "rows.tsv": b'text\tid\n"a\t1\nb\t2\n',
    "empty.csv": b"",
    "names.csv": b"text,id\n",
    "rows.jsonl": b'\xef\xbb\xbf{"a": 1}\n\n{"a": NaN}\n3\n{"a":\r\n{"b": "\xff"}\n\n\n',
    "rows.json": b'[{"a": 1}, 3, {"a": 2}]',
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_the_parts_are_the_whole(name: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "ROWS", rows)
    (tmp_path / name).write_bytes(CONTENTS[name])
    with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
        file.write(CONTENTS[name])
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        parts = list(open_chunks(path))
        assert [*chain(*parts)] == read_records(path)
        assert all(0 < len(part) <= rows for part in parts) or name == "rows.json"


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_parts_of_parquet(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "ROWS", rows)
    pandas.DataFrame({"text": ["a", "b", None], "id": [1, 2, 3]}).to_parquet(tmp_path / "rows.parquet")
    assert [*chain(*open_chunks(tmp_path / "rows.parquet"))] == read_records(tmp_path / "rows.parquet")


def test_a_single_line_that_is_not_utf_8_is_a_fault_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,id\nun café,1\n".encode() + b"caf\xe9,2\n")
    (part,) = open_chunks(tmp_path / "rows.csv")
    assert [(number, row["id"], [fault.field for fault in faults]) for number, row, faults in part] == [
        (2, "1", []),
        (3, "2", ["text"]),
    ]
    (tmp_path / "names.csv").write_bytes("café,id\nun café,1\n".encode().replace("café,".encode(), b"caf\xe9,", 1))
    with pytest.raises(DataError, match="the name of column .* is not UTF-8"):
        open_chunks(tmp_path / "names.csv")


def test_a_part_of_long_texts_has_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHARACTERS", 10)
    (tmp_path / "rows.csv").write_text("text,id\n" + "abcde,1\n" * 4)
    assert [len(part) for part in open_chunks(tmp_path / "rows.csv")] == [2, 2]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "ROWS", 64)
    peaks = []
    for count in (200, 4_000):
        frame = pandas.DataFrame({"text": [f"text {row} of rows" for row in range(count)], "id": range(count)})
        path = tmp_path / f"{count}{name}"
        if name.endswith(".parquet"):
            frame.to_parquet(path)
        elif name.endswith(".jsonl"):
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_csv(path, index=False)
        tracemalloc.start()
        assert sum(len(part) for part in open_chunks(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * max(peaks[0], 100_000), peaks
