"""Where results go, what of a folder is a run's, and that nothing else there is touched."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bilora.commands.train_config import TrainConfig
from bilora.errors import SettingsError
from bilora.files.formats import write_yaml
from bilora.files.lock import locked
from bilora.runs.config import RunConfig
from bilora.runs.folder import is_run, make_output_folder, plain_name, remove_run
from bilora.runs.resume import resumed_folder
from bilora.settings.sections import resolved


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    return path


def write_config(folder: Path) -> None:
    write_yaml(folder / "config.yaml", resolved(RunConfig()))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A command's folder with the folder of one run in it."""
    write(tmp_path / "out" / "bilora-seed0" / "checkpoint-4" / "manifest.json")
    for folder in (tmp_path / "out", tmp_path / "out" / "bilora-seed0"):
        write_config(folder)
    return tmp_path / "out"


def test_everything_that_train_writes_goes(command_run: Any, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(command_run.folder, tmp_path / "run"))
    assert is_run(copied)
    assert remove_run(copied) == []


def test_a_run_is_known_by_its_settings(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    for text in ("method: another program's\nseeds: [0]\n", "- no mapping\n", "no: [yaml"):
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        assert not is_run(tmp_path)
    write_yaml(tmp_path / "train.yaml", resolved(TrainConfig()))
    assert is_run(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "adapter/notes.txt", "bilora-seed0/notes.txt", "checkpoint-4/notes.txt", "mine/config.yaml"]
    + ["lora-seed1/metrics.jsonl"],  # in a folder that is called like a run's and is none
)
def test_a_file_that_is_no_runs_stays(run_folder: Path, name: str) -> None:
    kept = write(run_folder / name)
    assert remove_run(run_folder) == [run_folder / name.partition("/")[0]]
    assert kept.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["adapter", "checkpoint-8", "lora-seed1"])
def test_nothing_behind_a_link_goes(run_folder: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    kept = [write(elsewhere / file) for file in ("README.md", "manifest.json", "metrics.jsonl")]
    write_config(elsewhere)
    (run_folder / name).symlink_to(elsewhere, target_is_directory=True)
    remove_run(run_folder)
    assert all(file.is_file() for file in (*kept, elsewhere / "config.yaml"))
    assert (run_folder / name).is_symlink()


def test_default_takes_the_next_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    names = [make_output_folder(None, task="mrpc", root=root).name for _ in range(3)]
    assert names == ["mrpc-1", "mrpc-2", "mrpc-3"]
    (root / "mrpc-2").rmdir()
    monkeypatch.chdir(tmp_path)
    make_output_folder(None, task="mrpc")  # in runs of the current folder
    assert (root / "mrpc-2").is_dir()
    assert make_output_folder(None, task="rte", root=root).name == "rte-1"


def test_names_of_the_user_s_own_make_one_folder_or_file(tmp_path: Path) -> None:
    assert make_output_folder(None, task="package.module:TASK", root=tmp_path).parent == tmp_path
    assert plain_name("a_package.module-2:VARIANT/x") == "a_package.module-2-VARIANT-x"


@pytest.mark.parametrize("below", [".", "a/b"], ids=["an empty one", "a new one with its parents"])
def test_a_folder_in_which_nothing_is_is_taken(tmp_path: Path, below: str) -> None:
    folder = make_output_folder(str(tmp_path / below), task="mrpc")
    assert folder == tmp_path / below
    assert folder.is_dir()


def test_overwriting_removes_an_earlier_run_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path)
    write(tmp_path / "results.jsonl")
    write(tmp_path / "notes.txt")
    assert make_output_folder(str(tmp_path), task="mrpc", overwrite=True) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    out = capsys.readouterr().out
    assert "the earlier run in" in out and "still there: notes.txt" in out


@pytest.mark.parametrize(
    ("name", "overwrite", "message"),
    [
        ("results.jsonl", False, "is not empty; name another one, .* or go on in it with --resume"),
        ("config.yaml", True, "is not empty and holds no earlier run"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str, overwrite: bool, message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(SettingsError, match=f"output folder {tmp_path} {message}"):
        make_output_folder(str(tmp_path), task="mrpc", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_overwriting_waits_for_nobody(tmp_path: Path) -> None:
    write_config(tmp_path)
    with locked(tmp_path), pytest.raises(SettingsError, match="is in use by process"):
        make_output_folder(str(tmp_path), task="mrpc", overwrite=True)
    assert (tmp_path / "config.yaml").is_file()


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "runs")
    for folder in (file, file / "sub"):
        with pytest.raises(SettingsError, match="cannot be created"):
            make_output_folder(str(folder), task="mrpc")
    with pytest.raises(SettingsError, match="cannot be created: .*; give --output"):
        make_output_folder(None, task="mrpc", root=file)


def test_the_folder_of_an_earlier_command_is_the_last_that_is_named(run_folder: Path) -> None:
    for words in ([], ["--resume", "auto", "--debug"], ["--resume=auto"], ["--resume", "--debug"], ["--resume"]):
        assert resumed_folder(words) is None
    for words in (["--resume", "a", "--resume", str(run_folder)], [f"--resume={run_folder}"]):
        assert resumed_folder(words) == run_folder
    with pytest.raises(SettingsError, match="is not the output folder of an earlier command"):
        resumed_folder(["--resume", str(run_folder.parent)])
