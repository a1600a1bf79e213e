"""How a run is named in its results, and that its peak memory is its own, not that of the process."""

import mmap
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bilora.engines.hypergradients.darts import Darts
from bilora.runs import results
from bilora.runs.config import RunConfig
from bilora.runs.results import PeakMemory, read_predictions, run_identity
from bilora.tasks.catalog import TASKS

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("hypergradient", "name"),
    [
        ("first_order", "first_order"),
        ("darts", "darts(finite_difference=forward, scale=learning_rate)"),
        ({"products": "exact", "scale": "one"}, "darts(products=exact)"),
        ({"name": "darts", "radius": 0.01, "finite_difference": "central", "scale": "one"}, "darts"),
        ({"name": "darts", "finite_difference": "forward", "scale": "one"}, "darts(finite_difference=forward)"),
        ({"around": "after_step", "scale": "learning_rate"}, "darts(around=after_step, scale=learning_rate)"),
        (
            {"name": "bilora.engines.hypergradients.darts:Darts", "radius": 0.1, "finite_difference": "central"},
            "bilora.engines.hypergradients.darts:Darts(radius=0.1, scale=learning_rate)",
        ),
    ],
)
def test_a_result_names_what_of_the_hypergradient_is_not_the_default(hypergradient: Any, name: str) -> None:
    identity = run_identity(RunConfig(hypergradient=hypergradient), TASKS["mrpc"])
    assert (identity["hypergradient"], identity["metric"]) == (name, "accuracy")
    assert Darts().radius == 0.01


def test_a_run_that_kept_no_predictions_has_none(tmp_path: Path) -> None:
    assert read_predictions(tmp_path / "predictions-validation.jsonl") is None


def peak(mebibytes: int) -> float:
    """Return the peak of a run that allocates and frees so much."""
    memory = PeakMemory(CPU)
    if mebibytes:
        # Pages of its own: an allocator might hand out those that an earlier test has freed.
        with mmap.mmap(-1, mebibytes * 2**20) as pages:
            for start in range(0, len(pages), mmap.PAGESIZE):
                pages[start] = 1
    return memory.megabytes()


@pytest.mark.skipif(not results.RESET.exists(), reason="this system cannot set the high-water mark back")
def test_sees_what_was_allocated_and_freed_inside_the_run_and_nothing_from_before() -> None:
    large, small, none = peak(200), peak(50), peak(0)
    assert large - small == pytest.approx(150, abs=20)
    assert large - none == pytest.approx(200, abs=20)


def test_where_the_mark_cannot_be_set_back_the_process_s_peak_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(results, "RESET", tmp_path)  # writing to a folder is refused
    monkeypatch.setattr(results, "STATUS", tmp_path / "missing")
    memory = PeakMemory(CPU)
    assert memory.megabytes() > 50


@pytest.mark.parametrize(("platform", "units"), [("linux", 2**10), ("darwin", 2**20)])
def test_units_in_a_mebibyte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, units: int) -> None:
    monkeypatch.setattr(results, "STATUS", tmp_path / "missing")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=300 * units))
    assert PeakMemory(CPU).megabytes() == 300


def test_on_a_gpu_it_is_the_gpu_s(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    device = torch.device("cuda", 0)
    assert PeakMemory(device).megabytes() == 3
    assert reset == [device]
