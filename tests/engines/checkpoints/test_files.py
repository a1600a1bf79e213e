"""Writing a checkpoint: whole or not at all."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import bilora.engines
from bilora.engines.checkpoints import files as checkpoint_files
from bilora.engines.checkpoints.files import (
    checkpoints,
    fault,
    newest_checkpoint,
    open_checkpoint,
    prune,
    read_parts,
    remove_unfinished,
    write_checkpoint,
)
from bilora.errors import CheckpointError, ResourceError
from bilora.files.state import pack, unpack

KILLS = 48

# Bare packages in the place of those whose own imports take seconds.
PATHS = {package.__name__: list(package.__path__) for package in (bilora, bilora.engines)}
WRITER = f"PATHS = {PATHS}" + textwrap.dedent(
    """
    import os, pathlib, random, signal, sys, time, types
    import torch
    for name, paths in PATHS.items():
        sys.modules[name] = package = types.ModuleType(name)
        package.__path__ = paths
    from bilora.engines.checkpoints.files import checkpoints, prune, write_checkpoint
    from bilora.files.state import pack

    folder, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2])

    def write_for_ever(first, last=10**9):
        for step in range(first, last):
            parts = {"state": pack({"step": step, "weights": torch.full((20_000,), float(step))}, part="state")}
            write_checkpoint(folder, step, parts=parts, about={})
            prune(folder, keep=2, newest=step)

    draw = random.Random(0)
    write_for_ever(1, 3)
    began = time.monotonic()
    write_for_ever(3, 6)
    # So that a kill falls into one of the first few checkpoints of a writer, on a busy machine too.
    seconds = (time.monotonic() - began) / 3
    for kill in range(kills):
        first = max([step for step, _ in checkpoints(folder)], default=0) + 1
        child = os.fork()
        if child == 0:
            # Every third one writes a step again that is there already, as a run resumed from further back does.
            write_for_ever(max(1, first - kill % 3))
        time.sleep(seconds * draw.uniform(0.5, 6))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(*sorted(path.name for path in folder.iterdir()), flush=True)
        sys.stdin.readline()  # until the other side has looked
    """
)


def write(folder: Path, step: int, *, size: int = 4, **more: Any) -> Path:
    parts = {"engine": pack({"step": step}, part="engine"), "lower": pack({"w": torch.ones(size)}, part="lower")}
    return write_checkpoint(folder, step, parts=parts, about={"note": "x"}, **more)


def states_in(folder: Path) -> dict[str, Any]:
    return {name: unpack(packed, part=name) for name, packed in read_parts(folder).items()}


def test_killed_at_any_moment_the_newest_checkpoint_is_whole(tmp_path: Path) -> None:
    """One process forks writers and kills each with SIGKILL after a random time; here each folder is read back."""
    command = [sys.executable, "-P", "-c", WRITER, str(tmp_path), str(KILLS)]
    unfinished = last = steps = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        assert forks.stdin is not None
        assert forks.stdout is not None
        for _ in range(KILLS):
            names = forks.stdout.readline().split()
            unfinished += any(".tmp-" in name for name in names)
            assert [fault(folder) for _, folder in checkpoints(tmp_path)] == [None] * len(checkpoints(tmp_path))
            remove_unfinished(tmp_path)
            newest, skipped = newest_checkpoint(tmp_path)
            assert newest is not None
            step = newest.manifest["step"]
            assert torch.equal(states_in(newest.folder)["state"]["weights"], torch.full((20_000,), float(step)))
            assert skipped == []
            last, steps = step, steps + (step > last)
            forks.stdin.write("\n")
            forks.stdin.flush()
    assert forks.returncode == 0
    assert unfinished > KILLS // 4, "the kills did not fall into the saving: the test would show nothing"
    assert steps > KILLS // 4, "hardly any writer came to the end of a checkpoint"


@pytest.mark.parametrize("size", [4, 3])
def test_what_was_written_last_is_read_back_and_no_pickle_is_written(tmp_path: Path, size: int) -> None:
    write(tmp_path, 3)
    checkpoint = open_checkpoint(write(tmp_path, 3, size=size))
    assert (checkpoint.manifest["step"], checkpoint.manifest["note"]) == (3, "x")
    states = states_in(checkpoint.folder)
    assert states["engine"] == {"step": 3}
    assert torch.equal(states["lower"]["w"], torch.ones(size))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    assert {path.suffix for path in checkpoint.folder.iterdir()} == {".json", ".safetensors"}


def test_further_files_are_in_the_manifest(tmp_path: Path) -> None:
    def more(folder: Path) -> None:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_text("w", encoding="utf-8")

    folder = write(tmp_path, 1, more=more)
    assert fault(folder) is None
    (folder / "adapter" / "weights").write_text("v", encoding="utf-8")
    assert fault(folder) == "adapter/weights is not as it was written (its sha256 differs)"


def test_old_ones_go_and_the_newest_stays(tmp_path: Path) -> None:
    for step in (1, 2, 10, 30):
        write(tmp_path, step)
    prune(tmp_path, keep=2, newest=10)
    assert [step for step, _ in checkpoints(tmp_path)] == [30, 10, 2], "30 is of a later time, and none of ours"


def test_one_that_was_to_be_replaced_comes_back(tmp_path: Path) -> None:
    """As a kill between the two renames leaves it."""
    folder = write(tmp_path, 5)
    os.replace(folder, tmp_path / "checkpoint-5.tmp-replaced-1")
    (tmp_path / "checkpoint-5.tmp-1").mkdir()
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    assert fault(folder) is None


FULL = r"is full: a checkpoint needs 0.0 MB \(16 bytes\), .* MB are free"


@pytest.mark.parametrize(
    ("error", "told_as", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError, FULL),
        (SafetensorError("I/O error: No space left on device"), ResourceError, FULL),
        (OSError(errno.EIO, "the disk is broken"), OSError, "the disk is broken"),
    ],
)
def test_an_error_of_the_disk_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told_as: type[Exception], words: str
) -> None:
    def broken(*_: Any) -> None:
        raise error

    write(tmp_path, 1)
    monkeypatch.setattr(checkpoint_files, "save_file", broken)
    with pytest.raises(told_as, match=words):
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert fault(tmp_path / "checkpoint-1") is None


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 15}))
    with pytest.raises(ResourceError, match=r"needs 0.0 MB \(16 bytes\)"):
        write(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_none_that_verifies_lists_all(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == newest_checkpoint(tmp_path / "none") == (None, [])
    (write(tmp_path, 1) / "manifest.json").unlink()
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(CheckpointError) as told:
        newest_checkpoint(tmp_path)
    lines = str(told.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["checkpoint-2", "checkpoint-1"]


def test_a_pipe_in_the_place_of_the_tensors_is_not_waited_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 1, parts={"state": pack({"step": 1}, part="state")}, about={})
    (folder / "state.safetensors").unlink()
    os.mkfifo(folder / "state.safetensors")
    assert str(fault(folder)).startswith("state.safetensors is missing")
