"""Where results go, and that nothing there is touched but an earlier run that shall go."""

from pathlib import Path

import pytest

from bilora.errors import SettingsError
from bilora.files.formats import write_yaml
from bilora.files.lock import locked
from bilora.runs.config import RunConfig
from bilora.runs.folder import make_output_folder
from bilora.settings.sections import resolved


def test_default_takes_the_next_free_number(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    names = [make_output_folder(None, task="mrpc", root=root).name for _ in range(3)]
    assert names == ["mrpc-1", "mrpc-2", "mrpc-3"]
    (root / "mrpc-2").rmdir()
    assert make_output_folder(None, task="mrpc", root=root).name == "mrpc-2"
    assert make_output_folder(None, task="rte", root=root).name == "rte-1"


def test_default_is_in_runs_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_output_folder(None, task="mrpc")
    assert (tmp_path / "runs" / "mrpc-1").is_dir()


def test_a_task_of_the_user_s_own_makes_one_folder(tmp_path: Path) -> None:
    assert make_output_folder(None, task="package.module:TASK", root=tmp_path).parent == tmp_path


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = make_output_folder(str(tmp_path / "a" / "b"), task="mrpc")
    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert make_output_folder(str(tmp_path), task="mrpc") == tmp_path


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(
        SettingsError, match=f"output folder {tmp_path} is not empty; name another one, .* or go on in it with --resume"
    ):
        make_output_folder(str(tmp_path), task="mrpc")
    assert [each.name for each in tmp_path.iterdir()] == ["results.jsonl"]


def test_overwriting_removes_an_earlier_run_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yaml(tmp_path / "config.yaml", resolved(RunConfig()))
    (tmp_path / "results.jsonl").write_text("{}", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert make_output_folder(str(tmp_path), task="mrpc", overwrite=True) == tmp_path
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]
    assert "the earlier run in" in (said := capsys.readouterr().out)
    assert "still there: notes.txt" in said


def test_overwriting_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: another program's\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="is not empty and holds no earlier run"):
        make_output_folder(str(tmp_path), task="mrpc", overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]


def test_overwriting_waits_for_nobody(tmp_path: Path) -> None:
    write_yaml(tmp_path / "config.yaml", resolved(RunConfig()))
    with locked(tmp_path), pytest.raises(SettingsError, match="is in use by process"):
        make_output_folder(str(tmp_path), task="mrpc", overwrite=True)
    assert (tmp_path / "config.yaml").is_file()


@pytest.mark.parametrize("below", [".", "sub"])
def test_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="cannot be created"):
        make_output_folder(str(tmp_path / "file" / below), task="mrpc")


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="cannot be created: .*; give --output"):
        make_output_folder(None, task="mrpc", root=tmp_path / "runs")
