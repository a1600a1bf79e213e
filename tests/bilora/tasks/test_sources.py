import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
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
    assert {split: len(split_rows) for split, split_rows in rows.validation.items()} == validation
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
    for part in present:
        save(f"mnli/validation_{part}.jsonl", some_rows(TASKS["mnli"], 3, start=6))
    rows = find_task("mnli").load_rows(tmp_path)
    assert tuple(rows.validation) == tuple(f"validation_{part}" for part in present)
    absent = {"matched", "mismatched"} - set(present)
    assert rows.notices == tuple(f"validation_{part} is not in {tmp_path / 'mnli'}" for part in absent)


def refused(name: str, folder: Path | None, text: str) -> DataError:
    with pytest.raises(DataError, match=text) as caught:
        find_task(name).load_rows(folder)
    return caught.value


def test_missing_and_double_sets_name_what_is_there(save: Save, tmp_path: Path) -> None:
    cure = r"; give --data-dir DIR with DIR/rte/train.jsonl and DIR/rte/validation.jsonl \(.gz allowed\)$"
    refused("rte", tmp_path, rf"no folder \S+/rte; {tmp_path} has: nothing{cure}")
    refused("rte", tmp_path / "none", rf"no folder \S+/none/rte; \S+ has: nothing{cure}")
    save("rte/dev.jsonl", [])
    looked_for = r"\(looked for train with .jsonl, .jsonl.gz\)"
    refused("rte", tmp_path, rf"rte has no train set {looked_for}; it has: dev.jsonl{cure}")
    save("rte/train.jsonl", some_rows(TASKS["rte"], 2))
    refused("rte", tmp_path, rf"no validation set .*; it has: dev.jsonl, train.jsonl{cure}")
    save("rte/train.jsonl.gz", some_rows(TASKS["rte"], 2))
    refused("rte", tmp_path, r"has more than one train set: train.jsonl, train.jsonl.gz; keep one")
    for name in ("train", "validation"):
        save(f"mnli/{name}.jsonl", some_rows(TASKS["mnli"], 6))
    with pytest.raises(DataError, match="task 'own' needs data: give --data-dir DIR with DIR/own/train.jsonl"):
        Task("own", ("body",), ("no", "yes")).load_rows(None)
    refused("mnli", tmp_path, r"no validation_matched set .*has: train.jsonl, validation.jsonl")


def test_notices_of_shared_texts_and_of_files_not_read_and_a_bad_row_is_named(save: Save, tmp_path: Path) -> None:
    save("rte/train.jsonl", some_rows(TASKS["rte"], 6))
    save("rte/validation.jsonl", some_rows(TASKS["rte"], 4, start=4))
    save("rte/validation_extra.jsonl", [])
    shared = "2 of 4 validation rows have the text of a training row"
    unread = f"validation_extra.jsonl in {tmp_path / 'rte'} is not read"
    assert find_task("rte").load_rows(tmp_path).notices == (unread, shared)
    # A pair shares a text only if both parts are equal.
    pairs = [{"sentence1": "a", "sentence2": second, "label": 0} for second in "bc"]
    save("rte/train.jsonl", pairs[:1])
    save("rte/validation.jsonl", pairs[1:])
    assert find_task("rte").load_rows(tmp_path).notices == (unread,)
    save("rte/validation.jsonl", [*pairs[1:] * 2, pairs[1] | {"label": -1}])
    refused("rte", tmp_path, r"rte/validation.jsonl:3 field 'label': is -1")


def test_embedded_validation_is_fixed_stratified_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = find_task("rotten_tomatoes").load_rows(None)
    validation = rows.validation["validation"]
    assert (len(rows.train), len(validation), rows.notices) == (7530, 1000, ())
    assert Counter(validation.labels) == {0: 500, 1: 500}
    assert not {row["text"] for row in rows.train} & {row["text"] for row in validation}
    assert sorted(rows.train.ids + validation.ids) == list(range(8530))
    assert find_task("rotten_tomatoes").load_rows(None).validation["validation"].ids == validation.ids
    assert validation.ids[:5] == (0, 2, 31, 34, 64)  # pinned: results are compared over years
    task = TASKS["rotten_tomatoes"]
    twice = [row for row in some_rows(task, 1000) for _ in range(2)]
    rows = check_rows(enumerate(twice, 1), task, source="reviews.csv", split="train")
    monkeypatch.setattr(bilora.tasks.sources, "embedded_rows", lambda task: rows)
    refused("rotten_tomatoes", None, r"reviews.csv: \d+ texts occur more than once")


@pytest.mark.parametrize("count", [1, 2, 10, 33, 100])
def test_taken_rows_keep_order_and_shares(count: int) -> None:
    rows = in_memory([0] * 70 + [1] * 30)
    some = take_rows(rows, count, seed=0)
    assert len(some) == count and list(some.ids) == sorted(some.ids)
    assert sum(some.labels) == round(0.3 * count)
    assert some.lines == tuple(row_id + 1 for row_id in some.ids)


def test_taken_rows_depend_on_the_seed_alone_and_are_of_rare_classes_and_of_the_whole_range_of_numbers() -> None:
    rows = in_memory([0] * 999 + [1])
    assert {sum(take_rows(rows, 10, seed=seed).labels) for seed in range(5)} == {1}
    rows = in_memory([0, 1] * 100)
    first, again, other = (take_rows(rows, 20, seed=seed).ids for seed in (0, 0, 1))
    assert first == again != other
    rows = in_memory([index / 20 for index in range(100)], TASKS["stsb"])
    assert [int(label * 2) for label in take_rows(rows, 10, seed=0).labels] == list(range(10))


@pytest.mark.parametrize("count", [0, -1, 5])
def test_more_rows_than_there_are(count: int) -> None:
    with pytest.raises(DataError, match=rf"{count} rows are asked for, but memory has 4; ask for 1 to 4"):
        take_rows(in_memory([0, 1, 0, 1]), count, seed=0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that can be reached; what is asked of it."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    info = "dataset_info"
    monkeypatch.setattr(huggingface_hub.HfApi, info, lambda self, name, *, timeout: asked.append((name, timeout)))
    return asked


def answer(monkeypatch: pytest.MonkeyPatch, sets: Any) -> list[tuple[str, ...]]:
    asked: list[tuple[str, ...]] = []

    def load_dataset(*names: str) -> Any:
        asked.append(names)
        if isinstance(sets, Exception):
            raise sets
        return sets

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def hub_sets(task: Task, *names: str) -> Any:
    counts = {name: 4 + place for place, name in enumerate(("train", *task.validation_splits))}
    rows = {name: some_rows(task, counts[name], start=10 * counts[name]) for name in names}
    return datasets.DatasetDict({name: datasets.Dataset.from_list(rows[name]) for name in names})


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.hub])
def test_any_glue_task_from_the_hub(name: str, hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS[name]
    asked = answer(monkeypatch, hub_sets(task, "train", *task.validation_splits))
    rows = find_task(name).load_rows(None)
    assert asked == [("nyu-mll/glue", name)] and hub == [("nyu-mll/glue", 3.0)]
    assert len(rows.train) == 4 and rows.notices == ()
    assert [len(rows.validation[split]) for split in task.validation_splits] == [5, 6][: len(rows.validation)]
    assert rows.train.origin(2) == f"nyu-mll/glue/{name}/train:3"


def test_hub_sets_without_a_part_or_with_a_bad_row(hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sets = hub_sets(TASKS["rte"], "train")
    answer(monkeypatch, sets)
    refused("rte", None, "nyu-mll/glue rte has no validation; it has: train")
    sets["validation"] = datasets.Dataset.from_list([{"sentence1": "a", "sentence2": "b", "label": -1}])
    refused("rte", None, r"nyu-mll/glue/rte/validation:1 field 'label': is -1 .*unlabelled")


def test_no_network_is_one_clear_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: Any, name: str, *, timeout: float) -> None:
        assert timeout <= 5
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    asked = answer(monkeypatch, {})
    error = refused("cola", None, "no answer from the hub")
    assert asked == []  # the long retries of load_dataset are not entered
    assert str(error) == (
        "no answer from the hub for nyu-mll/glue cola (OSError: Name or service not known); give --data-dir "
        "DIR with DIR/cola/train.jsonl and DIR/cola/validation.jsonl (.gz allowed), or set HF_HUB_OFFLINE=1 "
        "if the set was loaded on this machine before"
    )


def test_a_failure_while_loading(hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ConnectionError("cut off"))
    error = refused("cola", None, r"\(ConnectionError: cut off\); give --data-dir")
    assert isinstance(error.__cause__, ConnectionError)


def test_offline_mode_asks_nobody_and_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", None)  # to ask would be an error
    answer(monkeypatch, hub_sets(TASKS["rte"], "train", "validation"))
    assert len(find_task("rte").load_rows(None).train) == 4


def test_offline_for_real_is_told_within_seconds(tmp_path: Path) -> None:
    code = (
        "import time, datasets, huggingface_hub; from bilora.tasks.catalog import find_task\n"
        "start = time.monotonic()\n"
        "try: find_task('cola').load_rows(None)\n"
        "except ValueError as error: print(f'{time.monotonic() - start:.3f}', error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    seconds, _, text = done.stdout.partition(" ")
    assert float(seconds) < 5  # the retries of load_dataset take 23
    assert "give --data-dir DIR with DIR/cola/train.jsonl" in text and "or unset HF_HUB_OFFLINE" in text
