"""Rows 1 to 8 and 10: saving, stopping and going on."""

import errno
import functools
import operator
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import MONITOR, Adapted, At, Run, tiny_base

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.checkpoints import files as checkpoint_files
from bilora.engines.checkpoints.files import checkpoints, fault, newest_checkpoint, open_checkpoint, write_checkpoint
from bilora.engines.settings import LevelSettings
from bilora.engines.training import saved_run
from bilora.errors import CheckpointError, InterruptedRun, ResourceError
from bilora.files.state import pack, unpack

# Row 1, the kills with SIGKILL while checkpoints are written, is in tests/engines/checkpoints/test_files.py; rows 2 and
# 3 as processes of their own, with exit codes, are in tests/benchmarks/test_run_glue_resume.py; row 4, a run that is
# resumed at any step, with every part of a state and every variant, is in tests/engines/checkpoints/test_resume.py.

RICH: dict[str, Any] = {
    "steps": 10,
    "save_every": 5,
    "unroll_steps": 3,
    "hypergradient": {"name": "unrolled", "steps": 2},
    "refresh": 1,
    "meter": 2,
    "validate_every": 2,
    "early_stopping": 9,
    "keep_best": True,
    "upper": LevelSettings(batch_size=3, accumulation=2, learning_rate=1e-2),
    "validate": lambda: {"score": float(torch.rand(1))},
    "monitor": MONITOR,
}
"""Words under which a run has every part of a state."""


def test_row_01_what_a_killed_process_left_is_cleared_on_the_next_start(run: Run) -> None:
    folder = run(save_every=4).folder
    (folder / "checkpoint-9.tmp-123").mkdir()
    (folder / "checkpoint-9.tmp-123" / "state.json").write_text("{", encoding="utf-8")
    run(save_every=4, resume=True)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4", "checkpoint-8", "metrics.jsonl"]


@pytest.mark.parametrize(("row", "number"), [(2, signal.SIGTERM), (3, signal.SIGINT)])
def test_rows_02_and_03_a_signal_ends_the_run_after_its_step(run: Run, row: int, number: int) -> None:
    whole = run("whole")
    handlers = [signal.getsignal(handled) for handled in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(InterruptedRun, match="SIG.*: stopped after step 3; .*checkpoint-3 is the newest") as told:
        run(callbacks=[At(3, lambda _: signal.raise_signal(number))])
    assert told.value.number == number
    assert [signal.getsignal(handled) for handled in (signal.SIGTERM, signal.SIGINT)] == handlers
    run(resume=True).check_same(whole)


def test_row_03_the_second_interrupt_stops_at_once(run: Run, tmp_path: Path) -> None:
    def twice(_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(callbacks=[At(5, twice)], save_every=2)
    assert [(step, fault(folder)) for step, folder in checkpoints(tmp_path / "run")] == [(4, None), (2, None)]


@pytest.fixture
def rich(run: Run) -> Any:
    """A checkpoint with every part of a state, and the way to go on from a changed one."""
    folder = run(**RICH).folder
    shutil.copytree(folder / "checkpoint-5", folder / "kept")
    kept = open_checkpoint(folder / "kept")
    about = {name: kept.manifest[name] for name in ("run", "base", "data", "versions")}
    on = Adapted()  # once: a model that a refused state has changed is as good to refuse the next one

    def go_on(parts: dict[str, Any]) -> None:
        """Write the parts as an honest checkpoint, and resume from it."""
        shutil.rmtree(folder / "checkpoint-5", ignore_errors=True)
        packed = {name: pack(part, part=name) for name, part in parts.items()}
        written = write_checkpoint(folder, 5, parts=packed, about=about)
        run(**RICH, on=on, resume=written)

    parts = checkpoint_files.read_parts(kept.folder)
    go_on.states = lambda: {name: unpack(packed, part=name) for name, packed in parts.items()}  # type: ignore[attr-defined]
    return go_on


PARTS = {
    *("engine", "random", "stages", "split", "buffers", "meter"),
    *("callback.MetricsFile", "callback.KeepBest", "callback.EarlyStopping"),
    *(
        f"{level}.{part}"
        for level in ("lower", "upper")
        for part in ("parameters", "optimizer", "scheduler", "scaler", "progress", "loaders", "extra")
    ),
    "lower.recorded",
}


def test_row_05_no_part_of_the_state_can_be_left_out(rich: Any) -> None:
    assert set(rich.states()) == PARTS
    for name in sorted(PARTS):
        parts = rich.states()
        del parts[name]
        with pytest.raises(CheckpointError, match="checkpoint incomplete") as told:
            rich(parts)
        assert all(word in str(told.value) for word in name.removeprefix("callback.").split(".")), name


def test_row_05_nothing_inside_a_part_can_be_left_out(rich: Any) -> None:
    """Every key of every mapping at the first two depths, lists by their first item."""
    ways = [(name, *way) for name, state in rich.states().items() for way in _ways(state)]
    # Earlier versions wrote no terms, and between two steps their checkpoints go on all the same.
    ways = [way for way in ways if way[-1] != "terms"]
    assert len(ways) > 50
    for *before, last in ways:
        parts = rich.states()
        del functools.reduce(operator.getitem, before, parts)[last]
        with pytest.raises(CheckpointError, match="checkpoint (incomplete|does not fit)"):
            rich(parts)


def _ways(state: Any) -> list[tuple[Any, ...]]:
    """Return the way to every entry that a state must have: the keys of its mapping, and of mappings in it."""
    if not isinstance(state, dict):
        return [(0,)] if isinstance(state, list) and state else []
    ways: list[tuple[Any, ...]] = [(key,) for key in state]
    for key in ("python", "report", "param_groups"):
        inner = state.get(key)
        if isinstance(inner, dict):
            ways += [(key, name) for name in inner]
        if isinstance(inner, list) and inner:
            ways += [(key, 0), (key, 0, "lr"), (key, 0, "betas")]
    return ways


def test_row_05_a_part_that_was_changed_on_the_disk_is_named(run: Run) -> None:
    folder = run(save_every=4).folder / "checkpoint-8"
    text = (folder / "state.json").read_text(encoding="utf-8")
    (folder / "state.json").write_text(text.replace('"count": 8', '"count": 9'), encoding="utf-8")
    assert fault(folder) == "state.json is not as it was written (its sha256 differs); lower.progress has changed"


@pytest.mark.parametrize(
    "name", ["state.json", "state.safetensors", "manifest.json", "adapter/adapter_model.safetensors"]
)
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_rows_06_and_07_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    run: Run, name: str, harm: str
) -> None:
    """A checkpoint without its manifest is one that was not written to its end."""
    whole = run("whole")
    folder = run(save_every=4).folder
    path = folder / "checkpoint-8" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(bytes(content[:-9]) if harm == "truncate" else bytes(content))
    with pytest.warns(RuntimeWarning, match=f"checkpoint skipped: checkpoint-8: {name}"):
        run(save_every=4, resume=True).check_same(whole)
    assert fault(folder / "checkpoint-8") is None, "it was written again"


def full_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    original, done = checkpoint_files.save_file, []

    def save(*arguments: Any) -> None:
        if len(done) == saves:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(1)
        original(*arguments)

    monkeypatch.setattr(checkpoint_files, "save_file", save)


def test_row_08_a_full_disk_stops_the_run_and_harms_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, 2)
    with pytest.raises(ResourceError, match=r"is full: a checkpoint needs .* MB \(\d+ bytes\)"):
        run(save_every=2)
    assert [(step, fault(folder)) for step, folder in checkpoints(tmp_path / "run")] == [(4, None), (2, None)]
    assert not list((tmp_path / "run").glob("*.tmp-*"))


def test_row_08_or_goes_on_without_saving(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    full_after(monkeypatch, 2)
    with pytest.warns(RuntimeWarning, match="is full.*; the run goes on"):
        ended = run(save_every=2, on_save_error="warn")
    assert ended.result.steps == 8
    assert newest_checkpoint(ended.folder)[0].manifest["step"] == 4  # type: ignore[union-attr]


def test_row_08_too_little_room_is_told_before_the_first_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(ResourceError, match="0.0 MB are free"):
        run(save_every=2)
    assert list((tmp_path / "run").glob("*.jsonl")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [{"input_ids": [1, 2], "labels": row % 2} for row in range(40)]}, "the training rows cannot change"),
        ({"on": lambda: Adapted(base=tiny_base(seed=1))}, "the base model cannot change within"),
        ({"on": lambda: Adapted("lora")}, "method: 'bilora' -> 'lora'"),
    ],
)
def test_row_10_a_changed_run_is_refused(run: Run, change: dict[str, Any], said: str) -> None:
    """Seeds, batches, splits and what --allow-config-change allows are in tests/engines/checkpoints/test_resume.py."""
    run(save_every=4)
    built = {name: value() if callable(value) else value for name, value in change.items()}
    with pytest.raises(CheckpointError, match=said):
        run(save_every=4, resume=True, **built)


def test_row_11_other_versions_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run(save_every=4)
    monkeypatch.setattr(saved_run, "versions", lambda: {"torch": "9.9"})
    said = r"other versions \(torch .* -> 9.9\); the run goes on, but not to the same bits"
    with pytest.warns(RuntimeWarning, match=said):
        run(save_every=4, resume=True)


@pytest.mark.parametrize("save_every", [0, 4])
def test_row_02_a_signal_after_the_last_step_keeps_the_training(run: Run, save_every: int) -> None:
    class Signal(Callback):
        def on_run_end(self, engine: BilevelEngine) -> None:
            signal.raise_signal(signal.SIGTERM)

    def interrupted(number: int, frame: Any) -> None:
        raise InterruptedRun("told", number=number)

    watched = {"validate": lambda: {"score": float(torch.rand(1))}, "monitor": MONITOR, "keep_best": True}
    watched["validate_every"] = 3
    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        with pytest.raises(InterruptedRun):
            run(save_every=save_every, callbacks=[Signal()], **watched)
    finally:
        signal.signal(signal.SIGTERM, before)
    ended, whole = run(save_every=save_every, resume=True, **watched), run("whole", **watched)
    ended.check_same(whole)
    assert ended.result.stages == whole.result.stages
