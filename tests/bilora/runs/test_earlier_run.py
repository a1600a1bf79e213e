"""What of a folder is a run's, and what is somebody else's."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bilora.commands.train_config import TrainConfig
from bilora.files.formats import write_yaml
from bilora.runs.config import RunConfig
from bilora.runs.folder import is_run, remove_run
from bilora.settings.sections import resolved


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A command's folder with the folder of one run in it."""
    for folder in (tmp_path / "out", tmp_path / "out" / "bilora-seed0"):
        folder.mkdir()
        write_yaml(folder / "config.yaml", resolved(RunConfig()))
    write(tmp_path / "out" / "bilora-seed0" / "checkpoint-4" / "manifest.json")
    return tmp_path / "out"


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    return path


def test_everything_that_train_writes_goes(command_run: Any, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(command_run.folder, tmp_path / "run"))
    assert is_run(copied)
    assert remove_run(copied) == []


def test_a_run_is_known_by_its_settings(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    write_yaml(tmp_path / "config.yaml", {"model": "another program's", "seeds": [0]})
    assert not is_run(tmp_path)
    write_yaml(tmp_path / "train.yaml", resolved(TrainConfig()))
    assert is_run(tmp_path)


@pytest.mark.parametrize(
    "name", ["notes.txt", "adapter/notes.txt", "bilora-seed0/notes.txt", "checkpoint-4/notes.txt", "mine/config.yaml"]
)
def test_a_file_of_another_name_stays(run_folder: Path, name: str) -> None:
    kept = write(run_folder / name)
    assert remove_run(run_folder) == [run_folder / name.partition("/")[0]]
    assert kept.read_text(encoding="utf-8") == "mine"


def test_a_folder_that_is_called_like_a_run_and_is_none_stays(run_folder: Path) -> None:
    kept = write(run_folder / "lora-seed1" / "metrics.jsonl")
    assert remove_run(run_folder) == [kept.parent]
    assert kept.is_file()


@pytest.mark.parametrize("name", ["adapter", "checkpoint-8", "lora-seed1"])
def test_nothing_behind_a_link_goes(run_folder: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    kept = [write(elsewhere / each) for each in ("README.md", "manifest.json", "metrics.jsonl")]
    write_yaml(elsewhere / "config.yaml", resolved(RunConfig()))
    (run_folder / name).symlink_to(elsewhere, target_is_directory=True)
    remove_run(run_folder)
    assert all(each.is_file() for each in (*kept, elsewhere / "config.yaml"))
    assert (run_folder / name).is_symlink()
