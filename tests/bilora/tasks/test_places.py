"""Folders and hub ids as rows: which files are read, without a network."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from bilora.errors import DataError
from bilora.runs.config import RunConfig
from bilora.tasks.places import find_sets, is_hub_id, is_place


def test_what_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "here").mkdir()
    assert is_hub_id("owner/name") and is_hub_id("nyu-mll/glue/mrpc")
    for place in ("rows/train.csv", "rows/here", "rows.csv", "./a/b", "a/b/c/d", "mrpc"):
        assert not is_hub_id(place)
    assert is_place("owner/name") and is_place("rows") and not is_place("mrpc") and not is_place("my.module:TASK")


def test_without_a_network_one_line_says_what_to_give() -> None:
    with pytest.raises(
        DataError, match="there is no file or folder owner/name, and as a data set of the hub"
    ) as caught:
        find_sets("owner/name")
    assert "\n" not in str(caught.value)
    assert "give a file or a folder, or a hub id that this machine can reach" in str(caught.value)


def test_only_the_files_of_the_sets_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["README.md", "mrpc/train.parquet", "mrpc/test.parquet", "cola/train.parquet"]
    asked: dict[str, Any] = {}

    def fetch(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(tmp_path)

    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    sets = find_sets("nyu-mll/glue/mrpc")
    assert sets is not None and sets.train == str(tmp_path / "mrpc/train.parquet") and sets.validation is None
    assert asked == {
        "hub_id": "nyu-mll/glue", "repo_type": "dataset", "allow_patterns": ["mrpc/train.parquet", "mrpc/test.parquet"]
    }  # fmt: skip


def test_a_task_that_is_a_place_is_a_training_file() -> None:
    config = RunConfig(task="owner/name")
    assert (config.task, config.train_file) == (None, "owner/name")
