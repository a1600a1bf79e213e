"""Two processes on gloo, with the same rows a step, against one: see process_scenarios.py for what they do."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bilora.engines.hypergradients.catalog import HYPERGRADIENTS
from bilora.engines.hypergradients.implicit import PRODUCTS

SCRIPT = Path(__file__).with_name("process_scenarios.py")
HOWS = ("central", "forward", *(name for name in PRODUCTS if name != "finite_difference"))
COMBINATIONS = [
    f"{name}-{accumulation}"
    for each in HYPERGRADIENTS
    for name in ([each] if each == "first_order" else [f"{each}-{how}" for how in HOWS])
    for accumulation in (1, 2)
]
Told = dict[str, Any]
pytestmark = pytest.mark.slow


def run_two(folder: Path, *chosen: str, seconds: float) -> None:
    """Run the scenarios in two processes as torchrun would, and end both when the time is over."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(SCRIPT), str(folder), *chosen]
    started = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in (1, 0)
    ]
    try:
        _, errors = started[1].communicate(timeout=seconds)
    finally:
        for each in started:
            each.kill()
            each.communicate()
    if not chosen:
        assert started[1].returncode == 0, errors.decode()[-3000:]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Told]:
    folder = tmp_path_factory.mktemp("together")
    run_two(folder, seconds=900.0)

    def read(scenario: str) -> Told:
        found: Told = json.loads((folder / f"{scenario}.json").read_text())
        return found

    return read


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_two_processes_equal_one(told: Callable[[str], Told], combination: str) -> None:
    found = told("equality")[combination]
    assert found.pop("upper_steps") == 20
    assert found.pop("moved") > 0.1
    # Bit for bit the same in both, so that they cannot drift apart.
    assert found.pop("drift") == 0.0
    assert all(apart < 1e-12 for apart in found.values()), found


def test_rows_are_shared_evenly_and_none_is_read_twice(told: Callable[[str], Told]) -> None:
    found = told("rows_read")
    for level in ("lower", "upper"):
        first, second = (each[level] for each in found["together"])
        for parts, whole in zip(zip(first, second, strict=True), found["alone"][level], strict=True):
            assert len(parts[0]) == len(parts[1]) == len(whole) // 2
            assert [*parts[0], *parts[1]] == whole[: 2 * len(parts[0])]


def test_masks_differ_between_processes_and_not_within_a_hypergradient(told: Callable[[str], Told]) -> None:
    first, second = told("masks")["masks"]
    for masks in (first, second):
        # The second lower step and the two passes of its central difference; the upper batch has masks of its own.
        assert masks[1] == masks[3] == masks[4]
        assert masks[0] != masks[1] != masks[2]
    assert not any(mask in second for mask in first)


def test_one_process_asked_to_stop_stops_all(told: Callable[[str], Told]) -> None:
    assert told("stopping") == {"steps": [5, 5], "reasons": ["asked", "asked"]}


def test_all_decide_by_the_numbers_of_the_first(told: Callable[[str], Told]) -> None:
    assert told("metrics")["scores"] == [0.0, 0.0]


def test_a_loss_that_is_not_finite_anywhere_ends_all_before_a_step(told: Callable[[str], Told]) -> None:
    found = told("divergence")
    first, second = found["said"]
    assert first == second
    assert first.startswith("level 'lower', step 1: loss nan")
    assert found["moved"] == [0.0, 0.0]


def test_all_skip_the_steps_that_are_not_finite_anywhere(told: Callable[[str], Told]) -> None:
    found = told("divergence")
    first, second = found["skipped"]
    assert first == second
    assert 0 < sum(first) < 12
    assert found["warnings"] == [sum(first), 0]
    assert found["same"]
    assert found["finite"]


@pytest.mark.parametrize(
    ("scenario", "case", "start"),
    [
        ("refusals", "model", "the parameters of process 1 differ"),
        ("refusals", "rows", "the training rows of process 1 differ"),
        ("refusals", "settings", "the settings of process 1 differ"),
        ("refusals", "first_only", "the first one's error"),
        ("saving", "halve", "on_out_of_memory is 'halve', which one process alone can do, and there are 2"),
    ],
)
def test_all_refuse_together(told: Callable[[str], Told], scenario: str, case: str, start: str) -> None:
    first, second = told(scenario)[case]
    assert first == second
    assert first.startswith(start)


def test_validation_is_shared_and_its_numbers_are_those_of_one(told: Callable[[str], Told]) -> None:
    assert told("validation") == {"same": [True, True], "passes": [2, 2]}


@pytest.mark.parametrize("step", ["3", "6", "9"])
def test_a_run_goes_on_from_a_checkpoint_to_the_same_bits(told: Callable[[str], Told], step: str) -> None:
    assert told("saving")["same"][step] == [[True] * 4] * 2
    assert told("saving")["masks_differ"]


def test_a_signal_to_one_process_saves_and_ends_all(told: Callable[[str], Told]) -> None:
    found = told("saving")
    first, second = found["ended"]
    assert first == second
    assert first[0].startswith("SIGTERM: stopped after step 3; ")
    assert first[1] == 15
    assert found["files"] == ["checkpoint-3"]
    assert found["ended_same"] == [True, True]


@pytest.mark.parametrize("step", ["3", "11", "14"])
def test_a_run_goes_on_with_other_processes_and_a_notice(told: Callable[[str], Told], step: str) -> None:
    """Without masks, and with the same rows a step, it ends where it would have; all are in the middle of unrolling."""
    found = told("saving")["elsewhere"][step]
    for each in found.values():
        assert max(each["apart"]) < 1e-12
    [said], alone = found["fewer"]["told"]
    assert said.startswith("the checkpoint is of a run on 2 processes, and this one is on 1; parameters")
    assert alone == [said]  # what the first one gave
    [said], nothing = found["more"]["told"]
    assert said.startswith("the checkpoint is of a run on 1 process, and this one is on 2; parameters")
    assert nothing == []


def test_a_sharded_base_halves_and_trains_as_a_whole_one(told: Callable[[str], Told]) -> None:
    found = told("sharded_base")
    assert found["cut"] == [found["whole"] // 2] * 2
    assert found["moved"] > 0.1
    assert found["apart"] < 1e-12
    assert found["logits_apart"] < 1e-12
    assert found["labels"]


def test_the_command_trains_in_several_processes(told: Callable[[str], Told]) -> None:
    found = told("train_command")
    first, second = found["trained"]["printed"]
    assert found["trained"]["codes"] == [0, 0], first
    assert first.count("self-check of") == first.count(": ok") == 2
    assert second == ""
    # 8 epochs of the 64 rows of D1, in batches of 4 in each of the two.
    assert "bilora: 64 steps on" in first
    assert found["results"]["processes"] == 2
    assert {"adapter", "lora", "train.yaml", "metrics.jsonl"} <= set(found["files"])
    first, second = found["again"]["printed"]
    assert first.endswith("(finished before)\n")
    assert second == ""


@pytest.mark.parametrize("how", ["killed", "asleep"])
def test_a_lost_process_ends_the_others_with_its_number(tmp_path: Path, how: str) -> None:
    began = time.monotonic()
    run_two(tmp_path, how, seconds=120.0)
    found = json.loads((tmp_path / f"{how}.json").read_text())
    assert found["said"].startswith("process 1 of 2 is lost, so process 0 stops too")
    # The timeout of a message, here 3 s, and that of the roll call.
    assert found["after"] < 60.0
    assert time.monotonic() - began < 120.0
