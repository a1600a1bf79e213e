from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import bilora.tasks.sources
from bilora.data.rows import Rows, check_rows
from bilora.errors import DataError
from bilora.tasks.catalog import TASKS, Task, find_task
from bilora.tasks.sources import take_rows

# shared/data/README.md
ROW_COUNTS = {
    "cola": (8551, {"validation": 1043}),
    "sst2": (67349, {"validation": 872}),
    "mrpc": (3668, {"validation": 408}),
    "stsb": (5749, {"validation": 1500}),
    "wnli": (635, {"validation": 71}),
    "qnli": (8999, {"validation": 5463}),
    "mnli": (8999, {"validation_matched": 9815}),
}

Save = Callable[..., None]


def some_rows(task: Task, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {**{field: f"{field} {index}" for field in task.text_fields}, "label": index % task.num_labels}
        for index in range(start, start + count)
    ]


def in_memory(labels: Sequence[float], task: Task = TASKS["sst2"]) -> Rows:
    rows = [{**some_rows(task, 1)[0], "label": label} for label in labels]
    return check_rows(enumerate(rows, 1), task, source="memory", split="train")


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str, rows: list[dict[str, Any]]) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    return write


@pytest.mark.parametrize("name", ROW_COUNTS)
def test_real_files(name: str, glue_folder: Path) -> None:
    train, validation = ROW_COUNTS[name]
    rows = find_task(name).load_rows(glue_folder)
    assert len(rows.train) == train
    assert {split: len(each) for split, each in rows.validation.items()} == validation
    assert all(row[field].strip() for row in rows.train for field in TASKS[name].text_fields)
    if name == "mnli":
        assert Counter(rows.validation["validation_matched"].labels) == {0: 3479, 1: 3123, 2: 3213}
        assert rows.notices == (f"validation_mismatched is not in {glue_folder / 'mnli'}",)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "mnli"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_any_task_from_a_folder(name: str, suffix: str, save: Save, tmp_path: Path) -> None:
    task = TASKS[name]
    save(f"{name}/train.jsonl{suffix}", some_rows(task, 6))
    save(f"{name}/validation.jsonl{suffix}", some_rows(task, 3, start=6))
    rows = task.load_rows(str(tmp_path))
    assert (len(rows.train), len(rows.validation["validation"]), rows.notices) == (6, 3, ())


@pytest.mark.parametrize("present", [("matched",), ("mismatched",), ("matched", "mismatched")])
def test_mnli_with_one_or_both_validation_sets(present: tuple[str, ...], save: Save, tmp_path: Path) -> None:
    save("mnli/train.jsonl", some_rows(TASKS["mnli"], 6))
    for each in present:
        save(f"mnli/validation_{each}.jsonl", some_rows(TASKS["mnli"], 3, start=6))
    rows = find_task("mnli").load_rows(tmp_path)
    assert tuple(rows.validation) == tuple(f"validation_{each}" for each in present)
    absent = {"matched", "mismatched"} - set(present)
    assert rows.notices == tuple(f"validation_{each} is not in {tmp_path / 'mnli'}" for each in absent)


def test_missing_folder_and_files_name_what_is_there(save: Save, tmp_path: Path) -> None:
    cure = r"; give --data-dir DIR with DIR/rte/train.jsonl and DIR/rte/validation.jsonl \(.gz allowed\)$"
    with pytest.raises(DataError, match=rf"no folder \S+/rte; {tmp_path} has: nothing{cure}"):
        find_task("rte").load_rows(tmp_path)
    with pytest.raises(DataError, match=rf"no folder \S+/none/rte; \S+ has: nothing{cure}"):
        find_task("rte").load_rows(tmp_path / "none")
    save("rte/dev.jsonl", [])
    with pytest.raises(
        DataError, match=rf"rte has no train set \(looked for train with .jsonl, .jsonl.gz\); it has: dev.jsonl{cure}"
    ):
        find_task("rte").load_rows(tmp_path)
    save("rte/train.jsonl", some_rows(TASKS["rte"], 2))
    with pytest.raises(DataError, match=rf"no validation set .*; it has: dev.jsonl, train.jsonl{cure}"):
        find_task("rte").load_rows(tmp_path)


def test_mnli_without_a_validation_set(save: Save, tmp_path: Path) -> None:
    save("mnli/train.jsonl", some_rows(TASKS["mnli"], 6))
    save("mnli/validation.jsonl", some_rows(TASKS["mnli"], 6))
    with pytest.raises(DataError, match=r"no validation_matched set .*has: train.jsonl, validation.jsonl"):
        find_task("mnli").load_rows(tmp_path)


def test_a_file_in_both_forms_is_refused(save: Save, tmp_path: Path) -> None:
    for suffix in ("", ".gz"):
        save(f"rte/train.jsonl{suffix}", some_rows(TASKS["rte"], 2))
    with pytest.raises(DataError, match=r"has more than one train set: train.jsonl, train.jsonl.gz; keep one"):
        find_task("rte").load_rows(tmp_path)


def test_notices_of_shared_texts_and_of_files_not_read(save: Save, tmp_path: Path) -> None:
    save("rte/train.jsonl", some_rows(TASKS["rte"], 6))
    save("rte/validation.jsonl", some_rows(TASKS["rte"], 4, start=4))
    save("rte/validation_extra.jsonl", [])
    rows = find_task("rte").load_rows(tmp_path)
    assert rows.notices == (
        f"validation_extra.jsonl in {tmp_path / 'rte'} is not read",
        "2 of 4 validation rows have the text of a training row",
    )


def test_pairs_share_a_text_only_if_both_parts_are_equal(save: Save, tmp_path: Path) -> None:
    save("rte/train.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 0}])
    save("rte/validation.jsonl", [{"sentence1": "a", "sentence2": "c", "label": 0}])
    assert find_task("rte").load_rows(tmp_path).notices == ()


def test_a_bad_validation_row_is_named(save: Save, tmp_path: Path) -> None:
    save("rte/train.jsonl", some_rows(TASKS["rte"], 2))
    save("rte/validation.jsonl", [*some_rows(TASKS["rte"], 2), {"sentence1": "a", "sentence2": "b", "label": -1}])
    with pytest.raises(DataError, match=r"rte/validation.jsonl:3 field 'label': is -1"):
        find_task("rte").load_rows(tmp_path)


def test_embedded_validation_is_fixed_stratified_and_apart() -> None:
    rows = find_task("rotten_tomatoes").load_rows(None)
    validation = rows.validation["validation"]
    assert (len(rows.train), len(validation), rows.notices) == (7530, 1000, ())
    assert Counter(validation.labels) == {0: 500, 1: 500}
    assert not {row["text"] for row in rows.train} & {row["text"] for row in validation}
    assert sorted(rows.train.ids + validation.ids) == list(range(8530))
    assert find_task("rotten_tomatoes").load_rows(None).validation["validation"].ids == validation.ids
    assert validation.ids[:5] == (0, 2, 31, 34, 64)  # pinned: results are compared over years


def test_an_embedded_text_in_both_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["rotten_tomatoes"]
    twice = [row for row in some_rows(task, 1000) for _ in range(2)]
    rows = check_rows(enumerate(twice, 1), task, source="reviews.csv", split="train")
    monkeypatch.setattr(bilora.tasks.sources, "embedded_rows", lambda task: rows)
    with pytest.raises(DataError, match=r"reviews.csv: \d+ texts occur more than once"):
        find_task("rotten_tomatoes").load_rows(None)


def test_a_task_that_is_on_no_hub() -> None:
    with pytest.raises(DataError, match="task 'own' needs data: give --data-dir DIR with DIR/own/train.jsonl"):
        Task("own", ("body",), ("no", "yes")).load_rows(None)


@pytest.mark.parametrize("count", [1, 2, 10, 33, 100])
def test_taken_rows_keep_order_and_shares(count: int) -> None:
    rows = in_memory([0] * 70 + [1] * 30)
    some = take_rows(rows, count, seed=0)
    assert len(some) == count and list(some.ids) == sorted(some.ids)
    assert sum(some.labels) == round(0.3 * count)
    assert some.lines == tuple(each + 1 for each in some.ids)


def test_a_rare_class_is_taken_if_there_is_room() -> None:
    rows = in_memory([0] * 999 + [1])
    assert {sum(take_rows(rows, 10, seed=seed).labels) for seed in range(5)} == {1}


def test_taken_rows_depend_on_the_seed_alone() -> None:
    rows = in_memory([0, 1] * 100)
    chosen = [take_rows(rows, 20, seed=seed).ids for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_numbers_are_taken_from_the_whole_range() -> None:
    rows = in_memory([index / 20 for index in range(100)], TASKS["stsb"])
    assert [int(label * 2) for label in take_rows(rows, 10, seed=0).labels] == list(range(10))


@pytest.mark.parametrize("count", [0, -1, 5])
def test_more_rows_than_there_are(count: int) -> None:
    with pytest.raises(DataError, match=rf"{count} rows are asked for, but memory has 4; ask for 1 to 4"):
        take_rows(in_memory([0, 1, 0, 1]), count, seed=0)
