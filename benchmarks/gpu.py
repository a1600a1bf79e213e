"""What a GPU says: tests, times and memory of a lower step, and the embedded recipe; written into docs/gpu.md.

Each part runs as far as the machine lets it, and a part that fails says why in its place. Without a GPU the page says
that its figures are not there. Examples::

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts tests speed --models minilm roberta_base
    python benchmarks/gpu.py --toy --page trial.md
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from run_speed import compare, device_name
from speed_bench import Bench, Compilation, Shape
from speed_roads import BASELINE, ROADS

from bilora.artifacts.fingerprint import versions
from bilora.engines.settings import LevelSettings
from bilora.models.pretrained import first_line, quiet_transformers
from bilora.runs.config import RunConfig
from bilora.runs.plan import load_run_rows, plan_run
from bilora.runs.run import prepare, run_once

PROGRAM = "gpu.py"
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"
UNROLLS = (1, 2, 4, 8)
# Compiled, with four lower steps an upper step: at most an eager step of PEFT's.
AIM_COMPILED = 1.0
# Of the cost model, and of LoRA's peak.
ROOM, AIM_MEMORY = 1.05, 1.05
SHAPES = {"toy": Shape(2, 8), "llama_1b": Shape(4, 512)}
USUAL = Shape(32, 128)


@dataclass(frozen=True)
class Part:
    """A section of the page: its title, and the lines of Markdown that running it gives."""

    title: str
    run: Callable[[argparse.Namespace, torch.device], Iterator[str]]


def main(argv: Sequence[str]) -> int:
    """Run the parts, write the page, and return the exit code: 0 also where a part could not run."""
    options = _options(argv)
    quiet_transformers()
    device = device_of(options)
    sections = None if device is None else [section(PARTS[name], options, device) for name in options.parts]
    options.page.write_text(page(sections, "" if device is None else about(device, argv)), encoding="utf-8")
    print(f"written: {options.page}")
    return 0


def device_of(options: argparse.Namespace) -> torch.device | None:
    """Return the GPU, for a trial the CPU where there is none, and else None."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu") if options.toy else None


def section(part: Part, options: argparse.Namespace, device: torch.device) -> str:
    """Return a part's section; what stops the part ends its section, and no other one."""
    lines: list[str] = []
    try:
        for line in part.run(options, device):
            print(line, flush=True)
            lines.append(line)
    # Whatever it is, the figures before it and the parts behind it are worth having.
    except Exception as error:
        lines.append(f"\nHere it ended: {type(error).__name__}: {first_line(error)}")
    return "\n".join([f"## {part.title}", "", *lines])


def page(sections: Sequence[str] | None, machine: str) -> str:
    """Return the page; None as the sections means that there was no GPU."""
    head = "# On a GPU\n\n`python benchmarks/gpu.py` measures on a GPU what this page is about, and writes it."
    if sections is None:
        return f"{head}\n\n{MISSING}"
    return "\n\n".join([head, machine, *sections]) + "\n"


MISSING = f"""**The figures are not there yet.** The machine on which the script ran last has no GPU, and no figure
on this page is guessed. What the script does on a machine with one:

* It runs the tests with the marker `gpu`: hypergradients equal to those of the CPU in float32 to 1e-5, a run resumed to
  the last bit, NCCL with one process, bfloat16, and memory that runs out in the middle of a stage. On a CPU the same
  tests run in every CI, with gloo in the place of NCCL.
* It times a lower step against PEFT's LoRA step in the same turn, for {", ".join(map(str, UNROLLS))} lower steps per
  upper step, eager and compiled, with torch's fused attention (SDPA): MiniLM, random weights in the shapes of
  RoBERTa-base and -large, and a Llama of 1.1 billion parameters. The aims are the cost model, 1 + 2/k LoRA steps, and
  at four steps compiled no more than an eager LoRA step; and a peak of memory of at most {AIM_MEMORY} times LoRA's,
  with gradient checkpointing and without.
* It trains the embedded MiniLM on 500 rows from end to end, on the GPU and on the CPU.

Times on a CPU are in the README, and in [Reproduce the tables](reproduce-the-tables.md).
"""


def about(device: torch.device, argv: Sequence[str]) -> str:
    """Return the sentence that says where the figures are from."""
    memory = ""
    if device.type == "cuda":
        memory = f", {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    words = " ".join(["python", f"benchmarks/{PROGRAM}", *argv])
    return f"From `{words}` on {device_name(device)}{memory}; {used}."


def tests(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Run the tests with the marker, which a trial leaves out."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--no-header", "tests/engines/test_gpu.py"]
    if options.toy:
        words.append("--collect-only")
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, flags=re.MULTILINE)
    yield (ended.stdout.strip().splitlines() or [ended.stderr.strip()])[-1]
    yield from (f"\n* failed: `{name}`" for name in failed)


def speed(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Time every model, eager and compiled, and weigh it with checkpointing and without."""
    yield "A lower step in PEFT's eager LoRA steps of the same turn; peak memory in LoRA's."
    yield ""
    yield "| model | batch x length | checkpointing | compiled | k | time | cost model | memory | aims |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for model in options.models:
        for checkpointing in (False, True):
            for compilation in (None, *options.compilations):
                # A compiled model that checkpoints is another road, which nobody has asked for.
                if checkpointing and compilation is not None:
                    continue
                bench = Bench(model, SHAPES.get(model, USUAL), options.precision, device, compilation, checkpointing)
                roads = [ROADS[name] for name in (BASELINE, *(f"forward_k{k}" for k in UNROLLS))]
                yield from map(speed_row, compare(bench, roads, options)[1:])


def speed_row(row: dict[str, Any]) -> str:
    """Return a row of the table, with the aims that it misses, of a row of run_speed."""
    compiled = row["compiled"] is not None
    k = int(row["road"].rpartition("_k")[2])
    missed = missed_aims(row["ratio"], row.get("memory_ratio"), k=k, compiled=compiled)
    cells = [
        row["model"],
        f"{row['batch']}x{row['length']}",
        "on" if row["checkpointing"] else "off",
        row["compiled"]["mode"] if compiled else "no",
        k,
        f"{row['ratio']:.3f}",
        f"{row['cost_model']:.3f}",
        f"{row['memory_ratio']:.3f}" if "memory_ratio" in row else "-",
        "; ".join(missed) or "met",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def missed_aims(ratio: float, memory: float | None, *, k: int, compiled: bool) -> list[str]:
    """Return the aims that a time and a peak miss, in words; the cost model has five hundredths of room.

    Example:
        >>> missed_aims(1.52, 1.04, k=4, compiled=False), missed_aims(1.2, 1.1, k=4, compiled=True)
        ([], ['time above 1', 'memory above 1.05'])
    """
    aim = AIM_COMPILED if compiled and k == 4 else ROOM * (1 + 2 / k)
    words = [f"time above {aim:g}"] if ratio > aim else []
    return words + ([f"memory above {AIM_MEMORY:g}"] if memory is not None and memory > AIM_MEMORY else [])


def recipe(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Train the embedded MiniLM from end to end, on this device and on the CPU."""
    yield "| device | seconds from end to end | seconds of training | score |"
    yield "|---|---|---|---|"
    for name in dict.fromkeys((device.type, "cpu")):
        began = time.perf_counter()
        row = recipe_run(name, toy=options.toy)
        yield f"| {name} | {time.perf_counter() - began:.1f} | {row['seconds']:.1f} | {row['score']:.3f} |"


def recipe_run(device: str, *, toy: bool) -> dict[str, Any]:
    """Return the row of a run of the default method on 500 embedded sentences, in a trial on 40 in two steps."""
    small = LevelSettings(batch_size=4, learning_rate=3e-3)
    trial: dict[str, Any] = {"steps": 2, "unroll_steps": 1, "lower": small, "upper": small, "max_length": 8}
    config = RunConfig(method="bilora", train_rows=40 if toy else 500, device=device, **(trial if toy else {}))
    plan = plan_run(config, load_run_rows(config))
    with tempfile.TemporaryDirectory() as folder:
        return run_once(plan, prepare([plan]), folder=Path(folder) / "run")


PARTS = {
    "tests": Part("Tests", tests),
    "speed": Part("Time and memory of a lower step", speed),
    "recipe": Part("MiniLM on 500 sentences, end to end", recipe),
}


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Measure on a GPU, and write a page.", allow_abbrev=False
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    models = ["minilm", "roberta_base", "roberta_large", "llama_1b"]
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="timed lower steps per turn")
    parser.add_argument("--page", type=Path, default=PAGE, help="the file to write")
    parser.add_argument("--toy", action="store_true", help="a trial of the script: tiny models, on the CPU too")
    options = parser.parse_args(argv)
    if options.toy:
        options.models, options.rounds, options.steps = ["toy"], 1, 1
    options.memory, options.compilations = True, () if options.toy else (Compilation("default"),)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
