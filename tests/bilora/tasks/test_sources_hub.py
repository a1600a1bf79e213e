"""The hub as a source, without a hub: what answers is a stand-in in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from bilora.errors import DataError
from bilora.tasks.catalog import TASKS, Task, find_task


def some_rows(task: Task, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {**{field: f"{field} {index}" for field in task.text_fields}, "label": index % task.num_labels}
        for index in range(start, start + count)
    ]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that can be reached; what is asked of it."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, name, *, timeout: asked.append((name, timeout))
    )
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
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_list(some_rows(task, counts[name], start=10 * counts[name])) for name in names}
    )


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.hub])
def test_any_glue_task_from_the_hub(name: str, hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS[name]
    asked = answer(monkeypatch, hub_sets(task, "train", *task.validation_splits))
    rows = find_task(name).load_rows(None)
    assert asked == [("nyu-mll/glue", name)] and hub == [("nyu-mll/glue", 3.0)]
    assert len(rows.train) == 4 and rows.notices == ()
    assert {split: len(each) for split, each in rows.validation.items()} == {
        split: 5 + place for place, split in enumerate(task.validation_splits)
    }
    assert rows.train.origin(2) == f"nyu-mll/glue/{name}/train:3"


def test_hub_rows_are_checked(hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sets = hub_sets(TASKS["rte"], "train")
    sets["validation"] = datasets.Dataset.from_list([{"sentence1": "a", "sentence2": "b", "label": -1}])
    answer(monkeypatch, sets)
    with pytest.raises(DataError, match=r"nyu-mll/glue/rte/validation:1 field 'label': is -1 .*unlabelled"):
        find_task("rte").load_rows(None)


def test_a_hub_set_without_a_part(hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, hub_sets(TASKS["rte"], "train"))
    with pytest.raises(DataError, match="nyu-mll/glue rte has no validation; it has: train"):
        find_task("rte").load_rows(None)


def test_no_network_is_one_clear_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: Any, name: str, *, timeout: float) -> None:
        assert timeout <= 5
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    asked = answer(monkeypatch, {})
    with pytest.raises(DataError) as caught:
        find_task("cola").load_rows(None)
    assert asked == []  # the long retries of load_dataset are not entered
    assert str(caught.value) == (
        "no answer from the hub for nyu-mll/glue cola (OSError: Name or service not known); give --data-dir "
        "DIR with DIR/cola/train.jsonl and DIR/cola/validation.jsonl (.gz allowed), or set HF_HUB_OFFLINE=1 "
        "if the set was loaded on this machine before"
    )


def test_a_failure_while_loading(hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ConnectionError("cut off"))
    with pytest.raises(DataError, match=r"\(ConnectionError: cut off\); give --data-dir") as caught:
        find_task("cola").load_rows(None)
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_offline_mode_asks_nobody_and_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", never)
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
