"""The speed benchmark: every road makes the steps it says, is timed and weighed as it says, and is written down."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import imported

CPU = torch.device("cpu")
speed_bench, speed_roads, run_speed = map(imported, ("speed_bench", "speed_roads", "run_speed"))
NAMES = (
    ["peft", "peft_fused", "peft_compiled", "trainer", "lora"]
    + [f"betty_k{k}" for k in (1, 2, 4)]
    + [f"{scheme}_k{k}" for scheme in ("forward", "central") for k in (1, 2, 4, 8)]
)


def toy(precision: str = "fp32", compilation: Any = None) -> Any:
    return speed_bench.Bench("toy", speed_bench.Shape(2, 8), precision, CPU, compilation)


def count_passes(model: torch.nn.Module) -> list[int]:
    """Count forward passes and, for each, whether it was differentiated."""
    passes: list[int] = [0, 0]

    def forward(_: Any, __: Any, output: Any) -> None:
        passes[0] += 1
        output.loss.register_hook(lambda gradient: passes.__setitem__(1, passes[1] + 1))

    model.get_base_model().register_forward_hook(forward)  # type: ignore[operator]
    return passes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_road_makes_the_passes_of_its_cost_model(name: str, precision: str) -> None:
    road = speed_roads.ROADS[name]
    bench = toy(precision)
    clock = speed_bench.Clock(road.cycle, 2 * road.cycle, CPU)
    variant = "bilora" if name.split("_")[0] in ("betty", "forward", "central") else "lora"
    model = bench.adapted(variant, owner="trainer" if name == "trainer" else "", compiled=road.compiled)
    passes = count_passes(model)
    before = [weight.detach().clone() for weight in model.parameters()]
    road.run(bench, clock)
    # A LoRA step is one forward and one backward pass, of about the same length where the base is frozen.
    assert sum(passes) / 2 / clock.total == pytest.approx(road.cost)
    assert clock.ticks == clock.total
    assert clock.wall > 0 and clock.cpu > 0
    moved = {(b.requires_grad, torch.equal(a, b)) for a, b in zip(before, model.parameters(), strict=True)}
    assert moved == {(True, False), (False, True)}


def test_the_table_holds_every_road() -> None:
    assert list(speed_roads.ROADS) == NAMES


def test_the_clock_leaves_the_first_steps_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 16.0])
    cpu = iter([1.0, 4.0])
    monkeypatch.setattr(speed_bench.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(speed_bench.time, "process_time", lambda: next(cpu))
    clock = speed_bench.Clock(2, 3, CPU)
    for _ in range(5):
        clock.tick()
    assert (clock.wall, clock.cpu) == (2.0, 1.0)


def test_peak_memory_is_the_most_that_was_held_at_once() -> None:
    kept: list[torch.Tensor] = [torch.zeros(2**20)]

    def work() -> None:
        for _ in range(3):
            torch.ones(2**18).sum()  # 1 MiB, let go each time
        both = torch.ones(2**18), torch.ones(2**18)
        kept.append(both[0])

    assert speed_bench.peak_megabytes(work, CPU) == pytest.approx(2.0, abs=0.01)


def test_roads_that_leave_the_model_as_it_is_share_one() -> None:
    bench = toy()
    assert bench.adapted("lora", compiled=True) is bench.adapted("lora")
    assert bench.adapted("lora", owner="trainer") is not bench.adapted("lora")


def test_a_compiled_model_is_another_one_with_the_same_parameters() -> None:
    bench = toy(compilation=speed_bench.Compilation("reduce-overhead", "eager"))
    plain, compiled = bench.adapted("lora"), bench.adapted("lora", compiled=True)
    assert compiled is not plain
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in plain.named_parameters()]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run the command on the toy and return its rows by road."""

    def command(*words: str) -> dict[str, dict[str, Any]]:
        output = tmp_path / "rows.jsonl"
        argv = ["--toy", "--rounds", "2", "--output", str(output), *words]
        assert run_speed.main(argv) == 0
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        return {row["road"]: row for row in rows}

    return command


def test_the_command_writes_a_row_a_road(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run("--roads", "lora", "forward_k2", "--precisions", "fp32", "--steps", "4")
    assert list(rows) == ["peft", "lora", "forward_k2", "overhead"]
    row = rows["forward_k2"]
    assert row["cost_model"] == 2.0
    assert (row["model"], row["batch"], row["length"], row["precision"]) == ("toy", 2, 8, "fp32")
    base = rows["peft"]
    pairs = zip(row["own_wall_ms_by_round"], row["peft_wall_ms_by_round"], strict=True)
    assert row["ratio"] == pytest.approx(sum(mine / theirs for mine, theirs in pairs) / 2)
    assert base["ratio"] == base["cpu_ratio"] == base["memory_ratio"] == 1.0
    assert row["memory_ratio"] == pytest.approx(row["peak_mb"] / base["peak_mb"])
    assert {"command", "device", "threads", "versions"} <= set(row)
    assert len(rows["overhead"]["top"]) == 10
    shown = capsys.readouterr().out
    assert "forward_k2" in shown and "cost model" in shown and row["command"] in shown


def test_the_command_runs_compiled_roads_beside_the_eager_one(run: Any) -> None:
    words = ["--compile", "default", "--backend", "aot_eager", "--no-overhead", "--no-memory"]
    rows = run("--roads", "peft_compiled", "central_k1", "--precisions", "fp32", "--steps", "1", *words)
    assert [name for name, row in rows.items() if row["compiled"] is None] == ["peft"]
    assert list(rows) == ["peft", "peft_compiled", "central_k1"]
    assert "memory_ratio" not in rows["peft"]


def test_a_missing_device_ends_with_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_speed.main(["--device", "cuda"]) == 2
    assert "cuda" in capsys.readouterr().err


@pytest.mark.parametrize(
    "hypergradient",
    [
        {"name": "darts"},
        {"name": "darts", "finite_difference": "forward"},
        {"name": "neumann"},
        {"name": "conjugate_gradient", "damping": 0.1},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_finite_differences_hold_hardly_more_than_a_lora_step(hypergradient: dict[str, Any]) -> None:
    bench = speed_bench.Bench("toy", speed_bench.Shape(16, 32), "fp32", CPU)
    # The models are there before anything is counted.
    bench.adapted("lora"), bench.adapted("bilora")

    def peak(run: Any) -> float:
        return float(speed_bench.peak_megabytes(lambda: run(speed_bench.Clock(1, 2, CPU)), CPU))

    plain = peak(lambda clock: speed_roads.bare_loop(bench, clock))
    ours = peak(lambda clock: speed_roads.ours(bench, clock, variant="bilora", hypergradient=hypergradient))
    assert ours <= 1.10 * plain
