"""A disk without room: exit code 4, one line, nothing that was there is harmed, and a second start finishes."""

import contextlib
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bilora.commands.export import EXPORT, MERGE
from bilora.commands.init import INIT
from bilora.commands.predict import PREDICT
from bilora.commands.report import REPORT
from bilora.commands.train import TRAIN
from bilora.commands.verb import Verb
from bilora.compare.written import write_rows, write_section
from bilora.engines.checkpoints.files import checkpoints, fault
from bilora.files.formats import write_json, write_yaml
from bilora.runs import run as runs


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: other code than Python's is refused too, and the process lives on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def kept(command_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run, with an earlier export and an earlier report beside it."""
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(command_run.folder, folder / "run")
    assert EXPORT.run([str(folder / "run"), "--output", str(folder / "export"), "--rank", "1"]) == 0
    assert REPORT.run([str(folder / "run"), "--output", str(folder / "report.html")]) == 0
    return folder


@pytest.mark.parametrize(
    ("verb", "words", "rooms"),
    [
        # Without any room, and with some: the small files of a folder, and not the large ones.
        (EXPORT, ["run", "--output", "export"], (0, 900, 1500)),
        (REPORT, ["run", "--output", "report.html"], (0, 30_000)),
        (MERGE, ["run", "--output", "merged"], (0, 2_000, 200_000)),
        (PREDICT, ["run", "--file", "rows.jsonl", "--output", "answers.jsonl"], (0, 4096)),
        (INIT, ["--task", "rotten_tomatoes", "--output", "made.yaml"], (0, 50)),
    ],
    ids=lambda value: value.name if isinstance(value, Verb) else None,
)
def test_a_verb(
    verb: Verb,
    words: list[str],
    rooms: tuple[int, ...],
    kept: Path,
    review_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(review_file, kept / "rows.jsonl")
    monkeypatch.chdir(kept)
    before = files(kept)
    for room in rooms:
        with room_for(room):
            assert verb.run(words) == 4
        told = capsys.readouterr().err
        (line,) = told.splitlines()
        assert line.startswith(f"bilora {verb.name}: error: ")
        assert "File too large" in line
        assert files(kept) == before
    assert verb.run(words) == 0


@pytest.mark.parametrize("room", [0, 2_000])
def test_the_end_of_a_training(
    room: int, command_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, save = tmp_path / "run", runs._save
    words = [word if word != str(command_run.folder) else str(folder) for word in command_run.words]

    def without_room(*args: Any, **options: Any) -> None:
        with room_for(room):
            save(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_save", without_room)
        assert TRAIN.run([*words, "--save-every", "20"]) == 4
    told = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(told) == 1
    assert "File too large" in told[0]
    assert checkpoints(folder)
    assert all(fault(checkpoint) is None for _, checkpoint in checkpoints(folder))
    assert TRAIN.run(["--resume", str(folder)]) == 0
    weights = "adapter/adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (command_run.folder / weights).read_bytes()


def test_files_of_one_piece_stay_as_they_were(tmp_path: Path) -> None:
    """The tables of a comparison, the document of its user, and the settings of a run."""
    writes = {
        "document.md": lambda path, text: write_section(path, text, name="a"),
        "results": lambda path, text: write_rows(path, [{"text": text}]),
        "config.yaml": write_yaml,
        "finished.json": write_json,
    }
    for name, write in writes.items():
        write(tmp_path / name, "before")
    before = files(tmp_path)
    assert len(before) == 5
    for name, write in writes.items():
        with room_for(100), pytest.raises(OSError, match="File too large"):
            write(tmp_path / name, "after" * 100)
    assert files(tmp_path) == before
