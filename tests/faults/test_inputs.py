"""Rows 9, 30 and 34: folders and a long run; rows 19 and 20 are in tests/bilora/data, row 26 in tests/benchmarks."""

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from small_runs import At, Run
from torch import nn

import bilora
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.settings import FitSettings
from bilora.engines.training.fit import fit
from bilora.errors import SettingsError
from bilora.files.lock import locked
from bilora.problems import LowerProblem, UpperProblem, Variant


def test_row_09_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any) -> NoReturn:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(SettingsError, match="cannot be written to: Read-only file system"), locked(tmp_path):
        pass


def test_row_09_checkpoints_of_an_earlier_run_are_not_written_over(run: Run) -> None:
    folder = run(save_every=4).folder
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(SettingsError, match="holds checkpoints of an earlier run; resume it, or name another folder"):
        run(save_every=4)


# A bare package in the place of bilora, whose own imports take seconds.
HOLDER = f"""
import pathlib, sys, types
sys.modules["bilora"] = package = types.ModuleType("bilora")
package.__path__ = {list(bilora.__path__)!r}
from bilora.files.lock import locked
for _ in range(2):
    with locked(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
    print("let go", flush=True)
    sys.stdin.readline()
"""


def test_row_30_a_second_process_on_the_same_folder_is_told(run: Run, tmp_path: Path) -> None:
    """Until the first lets go of the folder, or is killed."""
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-P", "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SettingsError, match=f"is in use by process {other.pid}"):
            run()
        other.stdin.write("\n")
        assert other.stdout.readline() == "let go\n"
        with locked(tmp_path / "run"):
            pass
        assert list((tmp_path / "run").iterdir()) == []
        other.stdin.write("\n")
        assert other.stdout.readline() == "held\n"
        other.kill()
        other.wait()
    run()


def resident() -> int:
    """Return the memory that this process holds, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Below(LowerProblem):
    """A vector that is drawn to the other one, in noise."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"below": self.module.below}

    def training_step(self, batch: Any) -> Any:
        target = self.module.above.sigmoid() + torch.rand_like(self.module.below)
        return ((self.module.below - target) ** 2).mean()


class Above(UpperProblem):
    """The other vector, drawn to zero through it."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"above": self.module.above}

    def training_step(self, batch: Any) -> Any:
        return (self.module.below**2).mean()


def test_row_34_memory_stays_flat_over_5000_steps(tmp_path: Path) -> None:
    """The smallest bi-level problem, so that they are made in seconds; the first 500 fill the allocator's pools."""
    held: dict[int, tuple[int, int]] = {}

    def look(engine: Any) -> None:
        gc.collect()
        held[engine.step] = (resident(), len(gc.get_objects()))

    model: Any = nn.Module()
    model.below, model.above = (nn.Parameter(torch.ones(4)) for _ in range(2))
    lines = tmp_path / "metrics.jsonl"
    fit(
        model,
        [{"labels": index % 2} for index in range(160)],
        collate=lambda rows: {"labels": torch.tensor([row["labels"] for row in rows])},
        variant=Variant("pair", Below, Above, dict, lambda model, *_, **__: model),
        settings=FitSettings(steps=5000, unroll_steps=5, refresh=1, save_every=1000, save_total_limit=1, device="cpu"),
        callbacks=[MetricsFile(lines), At(500, look), At(5000, look)],
        folder=tmp_path / "run",
    )
    (early, objects), (late, more) = held[500], held[5000]
    assert late - early < 8 * 2**20
    assert more - objects < 2_000
    assert lines.stat().st_size < 5000 * 512
