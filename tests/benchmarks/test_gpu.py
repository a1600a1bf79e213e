"""The script for a GPU: its page without one, and every part of it on the CPU."""

from pathlib import Path

import pytest
import torch
from programs import imported
from tracked_files import ROOT

gpu, speed_bench = imported("gpu"), imported("speed_bench")


def test_without_a_gpu_the_page_says_that_there_are_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--page", str(tmp_path / "gpu.md")]) == 0
    written = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "The figures are not there yet." in written
    # The page of the documentation is this one, or one with the machine that its figures are from.
    there = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    assert there == written or "From `python benchmarks/gpu.py" in there


def test_every_part_runs_in_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--toy", "--page", str(tmp_path / "gpu.md")]) == 0
    written = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "Here it ended" not in written
    rows = [line for line in written.splitlines() if line.startswith("| toy")]
    # Checkpointing off and on, for each k.
    assert [row.split(" | ")[2:5:2] for row in rows] == [[on, k] for on in ("off", "on") for k in ("1", "2", "4", "8")]
    assert "| cpu | " in written
    assert "--toy" in written


def test_a_part_that_fails_says_so_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(options: object, device: object) -> object:
        yield "before"
        raise torch.OutOfMemoryError("no room\nat all")

    monkeypatch.setitem(gpu.PARTS, "speed", gpu.Part("Speed", failing))
    assert gpu.main(["--toy", "--parts", "speed", "recipe", "--page", str(tmp_path / "gpu.md")]) == 0
    written = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "## Speed\n\nbefore\n\nHere it ended: OutOfMemoryError: no room" in written
    assert "| cpu | " in written


@pytest.mark.parametrize(
    ("time", "memory", "k", "compiled", "missed"),
    [
        (1.57, 1.05, 4, False, []),
        (1.58, 1.05, 4, False, ["time above 1.575"]),
        (1.0, None, 4, True, []),
        (1.01, 1.06, 4, True, ["time above 1", "memory above 1.05"]),
        (1.3, 1.0, 8, True, []),
    ],
)
def test_aims(time: float, memory: float | None, k: int, compiled: bool, missed: list[str]) -> None:
    assert gpu.missed_aims(time, memory, k=k, compiled=compiled) == missed


@pytest.mark.parametrize(("name", "millions"), [("roberta_base", 125), ("roberta_large", 355), ("llama_1b", 1035)])
def test_shapes_are_those_of_the_models(name: str, millions: int) -> None:
    # Llama's own 1,100 million have an output for every word, 66 million, in the place of the head.
    with torch.device("meta"):
        model = speed_bench.MODELS[name]()
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(millions * 1e6, rel=0.02)
