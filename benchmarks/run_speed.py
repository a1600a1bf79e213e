"""Time and memory of a lower step on every road, in units of PEFT's LoRA step, beside the cost model.

The roads take turns inside every round, in one process, each just after a turn of PEFT's LoRA step, and each ratio is
the median over the rounds of a road's time over PEFT's in that turn: a machine that slows down slows both down. CPU
time stands beside wall-clock time; where the two ratios differ, other processes were running. Examples::

    python benchmarks/run_speed.py
    python benchmarks/run_speed.py --shapes 16x32 --precisions fp32 --roads lora forward_k4 betty_k4
    python benchmarks/run_speed.py --device cuda --models minilm base --shapes 32x128 --precisions bf16 \
        --compile reduce-overhead
    python benchmarks/run_speed.py --toy
"""

import argparse
import dataclasses
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# What the profiler that counts memory says of itself on the standard error; read when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from speed_bench import MODELS, Bench, Clock, Compilation, Shape, peak_megabytes
from speed_overhead import measure_overhead
from speed_roads import BASELINE, ROADS, Road

from bilora.artifacts.fingerprint import versions
from bilora.errors import BiloraError
from bilora.models.pretrained import quiet_transformers
from bilora.processes.devices import choose_device

BAD_INPUT = 2
PROGRAM = "run_speed.py"


class Turn(NamedTuple):
    """A road's clock, and that of PEFT's road just before it."""

    road: Clock
    base: Clock


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, or 2 for bad input."""
    options = _options(argv)
    quiet_transformers()
    try:
        device = choose_device(options.device)
    except BiloraError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    torch.set_num_threads(options.threads)
    about = {
        "command": shlex.join(["python", f"benchmarks/{PROGRAM}", *argv]),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    print(f"command: {about['command']}\ndevice: {about['device']}, {about['threads']} threads")
    for bench in _benches(options, device):
        rows = compare(bench, chosen_roads(options.roads, bench), options)
        print_rows(bench, rows)
        _append(options.output, [row | about for row in rows])
    if options.overhead:
        _append(options.output, [_overhead(options, device) | about])
    return 0


def compare(bench: Bench, roads: Sequence[Road], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the roads in turns, each just after a shorter turn of PEFT's, and return a row each."""
    turns: dict[str, list[Turn]] = {road.name: [] for road in roads}
    for number in range(options.rounds):
        start = number % len(roads)
        # Every round starts with another road, so that none has always the same predecessor.
        for road in (*roads[start:], *roads[:start]):
            base = _timed(bench, ROADS[BASELINE], max(1, options.steps // 2))
            clock = base if road.name == BASELINE else _timed(bench, road, whole_cycles(options.steps, road.cycle))
            turns[road.name].append(Turn(clock, base))
    memory = {road.name: _memory(bench, road) for road in roads} if options.memory else {}
    return [_row(bench, road, turns[road.name], memory) for road in roads]


def chosen_roads(names: Sequence[str] | None, bench: Bench) -> list[Road]:
    """Return the roads, PEFT's first; compiling PEFT's is a road of its own where anything is compiled."""
    asked = [road for name, road in ROADS.items() if names is None or name in names or name == BASELINE]
    return [road for road in asked if bench.compilation is not None or road.name != "peft_compiled"]


def whole_cycles(steps: int, cycle: int) -> int:
    """Return the fewest steps that are whole cycles and not below ``steps``.

    Example:
        >>> whole_cycles(4, 8), whole_cycles(4, 1), whole_cycles(5, 4)
        (8, 4, 8)
    """
    return -(-steps // cycle) * cycle


def device_name(device: torch.device) -> str:
    """Return the name of the processor or the accelerator."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def print_rows(bench: Bench, rows: Sequence[dict[str, Any]]) -> None:
    """Print one table."""
    compiled = f", compiled ({bench.compilation.mode})" if bench.compilation else ""
    print(f"\n{bench.model}, batch x length {bench.shape}, {bench.precision}{compiled}; x = PEFT's LoRA step")
    columns = ("road", "ms/step", "x wall", "x CPU", "cost model", "CPU/model", "peak MB", "x peak", "x with model")
    print(f"{columns[0]:14}" + "".join(f"{name:>14}" for name in columns[1:]))
    for row in rows:
        numbers = [
            row["ms_per_step"],
            row["ratio"],
            row["cpu_ratio"],
            row["cost_model"],
            row["cpu_ratio"] / row["cost_model"],
            row.get("peak_mb"),
            row.get("memory_ratio"),
            row.get("memory_ratio_with_model"),
        ]
        print(
            f"{row['road']:14}"
            + "".join(f"{'-' if number is None else format(number, '.3f'):>14}" for number in numbers)
        )


def _timed(bench: Bench, road: Road, steps: int) -> Clock:
    clock = Clock(road.cycle, steps, bench.device)
    road.run(bench, clock)
    return clock


def _row(bench: Bench, road: Road, turns: Sequence[Turn], memory: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": bench.model,
        **dataclasses.asdict(bench.shape),
        "precision": bench.precision,
        "compiled": dataclasses.asdict(bench.compilation) if bench.compilation and road.compiled else None,
        "checkpointing": bench.checkpointing,
        "road": road.name,
        "ms_per_step": 1e3 * statistics.median(turn.road.wall for turn in turns),
        "cpu_ms_per_step": 1e3 * statistics.median(turn.road.cpu for turn in turns),
        "ratio": statistics.median(turn.road.wall / turn.base.wall for turn in turns),
        "cpu_ratio": statistics.median(turn.road.cpu / turn.base.cpu for turn in turns),
        "cost_model": road.cost,
        "steps": turns[0].road.steps,
    }
    for which, clocks in (("own", [turn.road for turn in turns]), (BASELINE, [turn.base for turn in turns])):
        row[f"{which}_wall_ms_by_round"] = [1e3 * clock.wall for clock in clocks]
        row[f"{which}_cpu_ms_by_round"] = [1e3 * clock.cpu for clock in clocks]
    if memory:
        model = bench.model_megabytes()
        row |= {
            "peak_mb": memory[road.name],
            "memory_ratio": memory[road.name] / memory[BASELINE],
            "memory_ratio_with_model": (memory[road.name] + model) / (memory[BASELINE] + model),
        }
    return row


def _memory(bench: Bench, road: Road) -> float:
    """Return the peak of two whole cycles, the state of a new optimizer and its first step among them."""
    return peak_megabytes(lambda: road.run(bench, Clock(road.cycle, road.cycle, bench.device)), bench.device)


def _overhead(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    overhead = measure_overhead(turns=(1 if options.toy else 10) * options.rounds, steps=20, device=device)
    print(
        f"\nthe engine's own time per lower step (single level, 2-layer toy, metrics.jsonl and progress bar on): "
        f"{overhead.cpu_ms:.3f} ms CPU, {overhead.wall_ms:.3f} ms wall, on {overhead.bare_ms:.3f} ms of the bare loop"
    )
    print("where it goes (own time of calls that the bare loop does not make; cProfile makes each dearer):")
    for where, milliseconds in overhead.top:
        print(f"  {milliseconds:8.4f} ms  {where}")
    return {"road": "overhead", **dataclasses.asdict(overhead)}


def _benches(options: argparse.Namespace, device: torch.device) -> Iterator[Bench]:
    compilation = None if options.compile is None else Compilation(options.compile, options.backend)
    for model in ["toy"] if options.toy else options.models:
        for shape in [Shape(2, 8)] if options.toy else options.shapes:
            for precision in options.precisions:
                yield Bench(model, shape, precision, device, compilation)


def _append(path: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    if path is None:
        return
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Time and memory of a lower step.", allow_abbrev=False)
    parser.add_argument("--models", nargs="+", default=["minilm"], choices=MODELS)
    parser.add_argument("--shapes", nargs="+", type=Shape.read, default=[Shape(16, 32), Shape(32, 64), Shape(8, 128)])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--roads", nargs="+", choices=ROADS, help="default: all; peft is always among them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps",
        type=int,
        default=8,
        help="timed lower steps per turn, rounded up to whole cycles of unroll steps; PEFT's take half",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--compile", choices=["default", "reduce-overhead", "max-autotune"], help="torch.compile's mode"
    )
    parser.add_argument("--backend", default="inductor", help="torch.compile's backend")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--overhead", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--output", type=Path, help="a file to append JSON lines to")
    parser.add_argument("--toy", action="store_true", help="a tiny random model and one shape: does it run at all?")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
