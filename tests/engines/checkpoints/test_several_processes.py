"""Two processes on gloo, with the same rows a step, against one: see process_scenarios.py for what they do."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from forked import scripts

from bilora.engines.hypergradients.catalog import HYPERGRADIENTS
from bilora.engines.hypergradients.implicit import PRODUCTS

SCRIPT = Path(__file__).with_name("process_scenarios.py")
HOWS = ("central", "forward", *(name for name in PRODUCTS if name != "finite_difference"))
COMBINATIONS = [
    f"{name}-{accumulation}"
    for approximation in HYPERGRADIENTS
    for name in (["first_order"] if approximation == "first_order" else [f"{approximation}-{how}" for how in HOWS])
    for accumulation in (1, 2)
]
Outcome = Callable[[str], dict[str, Any]]
pytestmark = pytest.mark.slow


def run_two(folder: Path, *chosen: str, seconds: float) -> None:
    """Run the scenarios in two processes as torchrun would, and end both when the time is over."""
    first, second = scripts(SCRIPT, str(folder), *chosen, count=2)
    try:
        _, errors = first.communicate(timeout=seconds)
    finally:
        for script in (second, first):
            script.process.kill()
            script.process.join()
    if not chosen:
        assert first.poll() == 0, errors[-3000:]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Outcome:
    folder = tmp_path_factory.mktemp("together")
    rows = [{"text": f"number {row % 7} of {row}", "label": ("even", "odd")[row % 2]} for row in range(80)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model", str(tiny_encoder), "--train-file", str(folder / "rows.jsonl"), "--max-length", "16"]
    words += ["--device", "cpu", "--epochs", "8", "--lower.batch-size", "4", "--upper.batch-size", "4"]
    words += ["--method", "bilora"]
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
    run_two(folder, seconds=900.0)
    return lambda scenario: json.loads((folder / f"{scenario}.json").read_text())


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_two_processes_equal_one(outcome: Outcome, combination: str) -> None:
    numbers = outcome("equality")[combination]
    assert numbers.pop("upper_steps") == 12
    assert numbers.pop("moved") > 0.1
    # Bit for bit the same in both, so that they cannot drift apart.
    assert numbers.pop("drift") == 0.0
    assert all(apart < 1e-12 for apart in numbers.values()), numbers


def test_all_rows_are_read_and_none_twice(outcome: Outcome) -> None:
    rows = outcome("rows_read")
    for level in ("lower", "upper"):
        first, second = (seen[level] for seen in rows["together"])
        for one, other, whole in zip(first, second, rows["alone"][level], strict=True):
            assert len(one) - len(other) == len(whole) % 2
            assert [*one, *other] == whole


@pytest.mark.parametrize("rows", ["odd", "alone", "even"])
@pytest.mark.parametrize("over", ["rows", "tokens", "classes"])
def test_smaller_last_batches_are_those_of_one_process(outcome: Outcome, over: str, rows: str) -> None:
    numbers = outcome("odd_batches")[f"{over}-{rows}"]
    assert numbers.pop("moved") > 0.1
    # Half the batch, twice the accumulation: as many upper steps, in one process and in two.
    assert numbers.pop("upper_steps") == [50, 50]
    halved = numbers.pop("halved")
    assert rows != "even" or halved < 1e-12
    bounds = {"fifty torch.float32": 2e-4}
    assert all(apart < bounds.get(name, 1e-10) for name, apart in numbers.items()), numbers


def test_masks_differ_between_processes_and_not_within_a_hypergradient(outcome: Outcome) -> None:
    first, second = outcome("masks")["masks"]
    for masks in (first, second):
        # The second lower step and the two passes of its central difference; the upper batch has masks of its own.
        assert masks[1] == masks[3] == masks[4]
        assert masks[0] != masks[1] != masks[2]
    assert not any(mask in second for mask in first)


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("decisions", [[5, "asked", 0.0]] * 2),  # one alone was asked to stop; the score is that of the first
        ("validation", {"same": [True, True], "passes": [2, 2]}),  # of three batches, with the numbers of one process
    ],
)
def test_what_one_decides_or_does_is_for_all(outcome: Outcome, scenario: str, expected: Any) -> None:
    assert outcome(scenario) == expected


def test_a_loss_that_is_not_finite_anywhere_ends_all_before_a_step_or_is_skipped_by_all(outcome: Outcome) -> None:
    diverged = outcome("divergence")
    first, second = diverged["message"]
    assert first == second
    assert first.startswith("level 'lower', step 1: loss nan")
    assert diverged["moved"] == [0.0, 0.0]
    first, second = diverged["skipped"]
    assert first == second
    assert 0 < sum(first) < 12
    assert diverged["warnings"] == [sum(first), 0]
    assert diverged["same"]
    assert diverged["finite"]


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
def test_all_refuse_together(outcome: Outcome, scenario: str, case: str, start: str) -> None:
    first, second = outcome(scenario)[case]
    assert first == second
    assert first.startswith(start)


@pytest.mark.parametrize("step", ["3", "6", "9"])
def test_a_run_goes_on_from_a_checkpoint_to_the_same_bits(outcome: Outcome, step: str) -> None:
    assert outcome("saving")["same"][step] == [[True] * 4] * 2
    assert outcome("saving")["masks_differ"]


def test_a_signal_to_one_process_saves_and_ends_all(outcome: Outcome) -> None:
    saving = outcome("saving")
    (first, number), second = saving["ended"]
    assert second == [first, number]
    assert first.startswith("SIGTERM: stopped after step 3; ")
    assert number == 15
    assert saving["files"] == ["checkpoint-3"]
    assert saving["ended_same"] == [True, True]


@pytest.mark.parametrize("step", ["3", "11", "14"])
def test_a_run_goes_on_with_other_processes_and_a_notice(outcome: Outcome, step: str) -> None:
    """Without masks, and with the same rows a step, it ends where it would have; all are in the middle of unrolling."""
    elsewhere = outcome("saving")["elsewhere"][step]
    assert max(elsewhere["fewer"]["apart"] + elsewhere["more"]["apart"]) < 1e-12
    [notice], alone = elsewhere["fewer"]["told"]
    assert notice.startswith("the checkpoint is of a run on 2 processes, and this one is on 1; parameters")
    assert alone == [notice]  # what the first one gave
    [notice], nothing = elsewhere["more"]["told"]
    assert notice.startswith("the checkpoint is of a run on 1 process, and this one is on 2; parameters")
    assert nothing == []


def test_a_sharded_base_halves_and_trains_as_a_whole_one(outcome: Outcome) -> None:
    sharded = outcome("sharded_base")
    assert sharded["cut"] == [sharded["whole"] // 2] * 2
    assert sharded["moved"] > 0.1
    assert max(sharded["apart"], sharded["logits_apart"]) < 1e-12
    assert sharded["labels"]


def test_the_command_trains_in_several_processes(outcome: Outcome) -> None:
    command = outcome("train_command")
    first, second = command["trained"]["printed"]
    assert command["trained"]["codes"] == [0, 0], first
    assert first.count("self-check of") == first.count(": ok") == 2
    assert second == ""
    # 8 epochs of the 64 rows of D1, in batches of 4 in each of the two.
    assert "bilora: 64 steps on" in first
    assert command["results"]["processes"] == 2
    assert {"adapter", "lora", "train.yaml", "metrics.jsonl"} <= set(command["files"])
    first, second = command["again"]["printed"]
    assert first.endswith("(finished before)\n")
    assert second == ""


HOWS_TO_VANISH = ("killed", "asleep")


@pytest.fixture(scope="module")
def vanished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the first process wrote when it had lost the second, in each way; both wait at once."""
    folder = tmp_path_factory.mktemp("vanished")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda how: run_two(folder, how, seconds=120.0), HOWS_TO_VANISH))
    return folder


@pytest.mark.parametrize("how", HOWS_TO_VANISH)
def test_a_lost_process_ends_the_others_with_its_number(vanished: Path, how: str) -> None:
    lost = json.loads((vanished / f"{how}.json").read_text())
    assert lost["message"].startswith("process 1 of 2 is lost, so process 0 stops too")
    # The timeout of a message, here 3 s, and that of the roll call.
    assert lost["after"] < 60.0
