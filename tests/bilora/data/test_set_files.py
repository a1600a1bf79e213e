"""Which files of a folder are which set, in the layouts that folders and data sets of the hub have."""

from pathlib import Path

import pytest

from bilora.data.records import read_records
from bilora.data.set_files import SetPaths, find_set_files
from bilora.errors import DataError

SHARDS = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train.csv", "test.csv", "README.md"], SetPaths("train.csv", None, "test.csv")),
        (["my_train.jsonl", "my_dev.jsonl"], SetPaths("my_train.jsonl", "my_dev.jsonl")),
        ([*SHARDS, "data/val-00000.parquet"], SetPaths("data/train-*.parquet", "data/val-00000.parquet")),
        (["train/0.csv", "val/0.csv", ".cache/train.csv"], SetPaths("train/0.csv", "val/0.csv")),
        (["rows.csv.gz", "notes.txt"], SetPaths("rows.csv.gz")),
        # The word must stand alone: a constraint is no training.
        (["train.csv", "constraints.csv"], SetPaths("train.csv")),
    ],
)  # fmt: skip
def test_the_sets_are_found_by_their_names(names: list[str], found: SetPaths) -> None:
    assert find_set_files(names, source="folder") == found


def test_of_several_configurations_one_is_named() -> None:
    names = [f"{part}/{of_set}.parquet" for part in ("cola", "mrpc") for of_set in ("train", "validation")]
    with pytest.raises(DataError, match="glue has several train sets, in cola, mrpc; name one of these folders"):
        find_set_files(names, source="glue")
    assert find_set_files(names, source="glue", part="mrpc") == SetPaths(
        "mrpc/train.parquet", "mrpc/validation.parquet"
    )


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a.csv", "b.csv"], "folder has no train set .* it has: a.csv, b.csv; name the file"),
        (["train.csv", "train.jsonl"], "train.csv, train.jsonl could each be the same set; keep one of them"),
        ([], "it has: no file of rows"),
    ],
)
def test_what_is_not_clear_is_refused(names: list[str], text: str) -> None:
    with pytest.raises(DataError, match=text):
        find_set_files(names, source="folder")


def test_parts_of_a_set_are_read_as_one_file(tmp_path: Path) -> None:
    folder = tmp_path
    for number in range(3):
        (folder / f"train-{number}.csv").write_text(f"text,label\na{number},x\nb{number},y\n", encoding="utf-8")
    records = read_records(folder / "train-*.csv")
    assert [number for number, _, _ in records] == [1, 2, 3, 4, 5, 6]
    assert [row["text"] for _, row, _ in records] == ["a0", "b0", "a1", "b1", "a2", "b2"]
    with pytest.raises(DataError, match="there is no file .*test-\\*.csv"):
        read_records(folder / "test-*.csv")
