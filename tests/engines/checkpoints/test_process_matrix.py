"""The same run on 1, 2, 3 and 4 processes gives the same numbers, and sends what the documentation says."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import scripts
from process_traffic import Sizes, adapter_of_llama, lower_step, per_lower_step, ring, upper_step
from tracked_files import ROOT

with pytest.MonkeyPatch.context() as patch:
    # As for the script itself, which finds those beside it.
    patch.syspath_prepend(str(Path(__file__).parent))
    MATRIX = importlib.import_module("process_matrix")
pytestmark = pytest.mark.slow
COUNTS = (1, 2, 3, 4)
# The gradient of each process's rows is rounded to eight bits before the mean is taken. Where that turns the sign of a
# small one, AdamW's first step of a learning rate goes the other way: two of them apart, and twice that where a later
# step does so too.
RATE = 2e-3
BF16 = {"numbers": 2**-7, "one": 2 * RATE, "end": 4 * RATE}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What the processes of each count found, all at once."""
    folder = tmp_path_factory.mktemp("matrix")
    script = Path(__file__).with_name("process_matrix.py")
    started = [process for count in COUNTS for process in scripts(script, str(folder), count=count)]
    for process in started:
        _, errors = process.communicate(timeout=900)
        assert process.poll() == 0, errors[-3000:]
    return {count: json.loads((folder / f"{count}.json").read_text()) for count in COUNTS}


def apart(one: list[float], other: list[float]) -> float:
    return float((torch.tensor(one) - torch.tensor(other)).abs().max())


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("case", MATRIX.CASES)
def test_a_run_is_that_of_one_process(outcomes: dict[int, Any], case: str, count: int) -> None:
    alone, together = (outcomes[number]["matrix"][case] for number in (1, count))
    assert apart(alone["start"], together["start"]) == 0.0
    assert apart(alone["start"], alone["one"]) > 1e-4
    moved = apart(alone["start"], alone["end"])
    assert moved > 0.03
    relative = max(
        abs(here - there) / abs(there)
        for level in ("lower", "upper")
        for here, there in zip(together[level], alone[level], strict=True)
    )
    bounds = {"numbers": 1e-5, "one": 1e-6, "end": 2e-4}
    if case == "bf16":
        bounds = BF16
    found = {"numbers": relative} | {name: apart(alone[name], together[name]) for name in ("one", "end")}
    assert all(found[name] <= bounds[name] for name in found), (found, bounds)


@pytest.mark.parametrize("name", MATRIX.GOING_ON)
def test_a_run_goes_on_in_other_pieces(outcomes: dict[int, Any], name: str) -> None:
    """Saved in the middle of an unroll; a step has the same rows, in more or fewer processes and micro-batches."""
    end = outcomes[MATRIX.GOING_ON[name][1]]["going_on"][name]
    assert apart(end, outcomes[1]["matrix"]["unrolled"]["end"]) < 2e-4


SIZES = Sizes(lower=14, lower_tensors=2, upper=2, upper_tensors=1, lower_numbers=2, upper_numbers=1)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_messages_and_bytes_are_those_of_the_formula(outcomes: dict[int, Any], scheme: str, accumulation: int) -> None:
    steps = outcomes[2]["messages"][f"{scheme}-{accumulation}"]
    assert len(steps) == 8
    passes = {"forward": 1, "central": 2}[scheme]
    for number, sent in enumerate(steps, start=1):
        comes_back = number % 2 == 0
        expected = [lower_step(SIZES, comes_back=comes_back and scheme == "forward")]
        expected += upper_step(SIZES, products=passes) if comes_back else []
        assert [size for name, size in sent if name == "all_reduce"] == expected
        # Whether anybody asks for a stop, and whether there was a signal: after the step, so that the first has one.
        assert [name for name, _ in sent if name != "all_reduce"] == ["flag"] * min(number, 2)


def test_what_the_documentation_computes_follows_from_the_formula() -> None:
    page = " ".join((ROOT / "docs/several-processes.md").read_text(encoding="utf-8").split())
    sizes = adapter_of_llama(rank=16)
    lower, upper, whole = lower_step(sizes), upper_step(sizes), per_lower_step(sizes, unroll_steps=4)
    sent = {count: ring(count) * whole for count in (8, 64)}
    arithmetic = 4 * 7e9 * 4096 * (1 + 2 / 4) / 400e12
    times = {8: sent[8] / 450e9, 64: sent[64] / 50e9}
    gathered = {count: 2 * 1.5 * 13.5e9 * (count - 1) / count for count in (8, 64)}
    for words in (
        f"p_V is {sizes.lower:,} and p_E is {sizes.upper:,}",
        f"A lower step sends {lower / 1e6:.0f} MB, the three messages of an upper step {upper[0] / 1e6:.0f}, "
        f"{upper[1] / 1e6:.3f} and {upper[2] / 1e6:.3f} MB; together {whole / 1e6:.0f} MB per lower step",
        f"{sent[8] / 1e6:.0f} MB with 8 GPUs, {sent[64] / 1e6:.0f} MB with 64",
        f"at 450 GB/s each: {1e3 * times[8]:.1f} ms per lower step",
        f"50 GB/s for each GPU: {1e3 * times[64]:.1f} ms",
        f"that is {1e3 * arithmetic:.0f} ms",
        f"{times[8] / arithmetic:.1%} with 8 GPUs and {times[64] / arithmetic:.1%} with 64".replace("%", " %"),
        f"{gathered[8] / 1e9:.0f} GB with 8 GPUs ({1e3 * gathered[8] / 450e9:.0f} ms inside",
        f"{gathered[64] / 1e9:.0f} GB with 64 ({1e3 * gathered[64] / 50e9:.0f} ms over",
    ):
        assert words in page
