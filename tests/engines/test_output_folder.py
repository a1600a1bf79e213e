"""Where results go, and that nothing there is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilora.engines.output_folder import make_output_folder
from bilora.errors import SettingsError


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
    with pytest.raises(SettingsError, match=f"output folder {tmp_path} is not empty; name another one"):
        make_output_folder(str(tmp_path), task="mrpc")
    assert [each.name for each in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize("below", [".", "sub"])
def test_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="cannot be created"):
        make_output_folder(str(tmp_path / "file" / below), task="mrpc")


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="cannot be created: .*; give --output"):
        make_output_folder(None, task="mrpc", root=tmp_path / "runs")
