"""Peak memory is that of one run, not of the process."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from bilora.runs import results as peak_memory
from bilora.runs.results import PeakMemory

CPU = torch.device("cpu")


@pytest.fixture
def can_reset() -> None:
    if not peak_memory.RESET.exists():
        pytest.skip("this system cannot set the high-water mark back")


def peak(mebibytes: int) -> float:
    """Return the peak of a run that allocates and frees so much."""
    memory = PeakMemory(CPU)
    torch.ones(mebibytes * 2**20 // 4)
    return memory.megabytes()


@pytest.mark.usefixtures("can_reset")
def test_grows_by_what_was_allocated_and_freed_inside_the_run() -> None:
    assert peak(200) - peak(0) == pytest.approx(200, abs=20)


@pytest.mark.usefixtures("can_reset")
def test_does_not_see_what_was_freed_before_the_run() -> None:
    large, small = peak(200), peak(50)
    assert large - small == pytest.approx(150, abs=20)


def test_where_the_mark_cannot_be_set_back_the_process_s_peak_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peak_memory, "RESET", tmp_path)  # writing to a folder is refused
    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "missing")
    memory = PeakMemory(CPU)
    assert memory.megabytes() > 50


@pytest.mark.parametrize(("platform", "units_in_a_mebibyte"), [("linux", 2**10), ("darwin", 2**20)])
def test_units_of_the_operating_systems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, units_in_a_mebibyte: int
) -> None:
    class Usage:
        ru_maxrss = 300 * units_in_a_mebibyte

    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "missing")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    assert PeakMemory(CPU).megabytes() == 300


def test_on_a_gpu_it_is_the_gpu_s(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    device = torch.device("cuda", 0)
    assert PeakMemory(device).megabytes() == 3
    assert reset == [device]
