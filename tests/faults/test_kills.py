"""Moments at which a killed command left what no second start finished; ``.ci/kills.py`` looks for more of them."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from bilora.commands.compare import COMPARE
from bilora.commands.export import EXPORT, MERGE
from bilora.commands.predict import PREDICT
from bilora.commands.report import REPORT
from bilora.commands.train import TRAIN
from bilora.commands.verb import Verb
from bilora.errors import InterruptedRun
from bilora.files.formats import write_whole
from bilora.files.lock import NAMES as LOCKS
from bilora.runs import run as one_run
from bilora.runs.folder import make_output_folder


def ran(verb: Verb, *words: object) -> int:
    return verb.run([str(word) for word in words])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def ended_at_rename(number: int) -> Any:
    """End the process, as far as a test can, instead of the rename of that number."""
    rename, done = os.replace, []

    def replace(before: Any, after: Any) -> None:
        done.append(after)
        if len(done) > number:
            raise InterruptedRun("here", number=signal.SIGTERM)
        rename(before, after)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        yield done


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize(("verb", "more"), [(MERGE, ()), (EXPORT, ("--rank", 1))])
def test_an_output_that_was_half_put_there_is_written_again(
    verb: Verb, more: tuple[object, ...], number: int, command_run: Any, tmp_path: Path
) -> None:
    words = (command_run.folder, *more, "--output")
    with ended_at_rename(number):
        assert ran(verb, *words, tmp_path / "killed") == 143
    assert ran(verb, *words, tmp_path / "killed") == 0
    assert ran(verb, *words, tmp_path / "whole") == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".*"))


def test_predictions_are_there_whole_or_not_at_all(command_run: Any, review_file: Path, tmp_path: Path) -> None:
    words = (command_run.folder, "--file", review_file, "--output", tmp_path / "answers.jsonl")
    with ended_at_rename(0):
        assert ran(PREDICT, *words) == 143
    assert not (tmp_path / "answers.jsonl").exists()
    assert ran(PREDICT, *words) == 0


def test_an_earlier_page_stays_until_the_new_one_is_whole(command_run: Any, tmp_path: Path) -> None:
    words = (command_run.folder, "--output", tmp_path / "page.html")
    (tmp_path / "page.html").write_text("earlier")
    with ended_at_rename(0):
        assert ran(REPORT, *words) == 143
    assert (tmp_path / "page.html").read_text() == "earlier"
    assert ran(REPORT, *words) == 0
    assert (tmp_path / "page.html").read_text().rstrip().endswith("</html>")
    assert not list(tmp_path.rglob(".*"))


def test_a_leftover_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine")
    (tmp_path / ".page.tmp").symlink_to(tmp_path / "own")
    write_whole(tmp_path / "page", "new")
    assert ((tmp_path / "own").read_text(), (tmp_path / "page").read_text()) == ("mine", "new")


@pytest.fixture
def begun(tmp_path: Path) -> Callable[..., Path]:
    """A folder as it is when a process is killed in its first moments."""

    def make(*names: str) -> Path:
        folder = tmp_path / "begun"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("steps")
        return folder

    return make


@pytest.mark.parametrize("names", [LOCKS, (*LOCKS, ".train.yaml.tmp"), (".config.yaml.tmp",)])
def test_a_folder_without_settings_is_as_good_as_a_new_one(names: tuple[str, ...], begun: Callable[..., Path]) -> None:
    folder = begun(*names)
    assert make_output_folder(str(folder), task="mrpc") == folder


@pytest.mark.parametrize("names", [LOCKS, (*LOCKS, ".config.yaml.tmp")])
def test_so_it_is_for_a_comparison(names: tuple[str, ...], begun: Callable[..., Path], command_run: Any) -> None:
    folder = begun(*names)
    words = (*command_run.words[:4], "--text-columns", "text", "--output", folder, "--learning-rates", 0.01)
    words = (*words, "--methods", "lora", "--baseline", "lora", "--seeds", 1, "--steps", 2, "--max-length", 32)
    assert ran(COMPARE, *words) == 0
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("words", [("--resume",), ("--resume", "auto", "--output")])
def test_a_run_that_has_its_settings_alone_begins_again(
    words: tuple[str, ...], begun: Callable[..., Path], command_run: Any
) -> None:
    """As a kill leaves it while the model is loaded."""
    folder = begun()
    shutil.copy(command_run.folder / "train.yaml", folder)
    more = () if len(words) == 1 else (word for word in command_run.words if word != str(command_run.folder))
    given = [word for word in more if word != "--output"]
    assert ran(TRAIN, *given, *words, folder) == 0
    name = "adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (command_run.folder / name).read_bytes()


def test_a_signal_while_the_adapter_is_saved_waits_until_it_is(
    command_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = one_run.save_adapter

    def told(*arguments: Any, **more: Any) -> Path:
        signal.raise_signal(signal.SIGTERM)
        return save(*arguments, **more)

    monkeypatch.setattr(one_run, "save_adapter", told)
    words = [str(tmp_path / "run") if word == str(command_run.folder) else word for word in command_run.words]
    assert TRAIN.run(words) == 143
    for name in ("adapter", "lora"):
        trained = load_file(tmp_path / "run" / name / "adapter_model.safetensors")
        whole = load_file(command_run.folder / name / "adapter_model.safetensors")
        assert {key: value.tolist() for key, value in trained.items()} == {
            key: value.tolist() for key, value in whole.items()
        }
    assert json.loads((tmp_path / "run" / "finished.json").read_text()) == {"finished": False}
