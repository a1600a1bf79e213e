"""Compare methods on a GLUE task: train each with every seed, print one table, write results, adapters and plots.

With neither ``--config`` nor ``--task`` it runs ``configs/demo.yaml``: the embedded model and sentences, offline,
on a CPU. Examples::

    python benchmarks/run_glue.py
    python benchmarks/run_glue.py --task mrpc --data-dir DIR --method bilora lora --seeds 0 1 2 --steps 400
    python benchmarks/run_glue.py --task rte --model roberta-base --hypergradient.name darts \
        --hypergradient.finite_difference forward
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilora.engines.command_line import BAD_INPUT, parse_config
from bilora.engines.config import RunConfig
from bilora.engines.loss_plot import plot_losses
from bilora.engines.output_folder import make_output_folder
from bilora.engines.pretrained import quiet_transformers
from bilora.engines.results_table import print_table
from bilora.engines.run import prepare, run_once
from bilora.errors import BiloraError, DivergedError
from bilora.sources import load_task_rows

CONFIGS = Path(__file__).parent / "configs"
DIVERGED = 3
PROGRAM = "run_glue.py"


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, 2 for bad input, 3 for a diverged run, 130 for an interrupt."""
    quiet_transformers()
    try:
        config = parse_config(
            RunConfig, with_default_config(argv), prog=PROGRAM, description="Compare methods on a GLUE task."
        )
        if argv:
            # Not before the words are understood: what --print_config writes can be read back as YAML.
            print("command:", shlex.join(["python", f"benchmarks/{PROGRAM}", *argv]))
        compare(config)
    except DivergedError as error:
        return _fail(error, DIVERGED)
    except BiloraError as error:
        return _fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        return _fail("interrupted; finished runs are in results.jsonl", 130)
    return 0


def with_default_config(argv: Sequence[str]) -> list[str]:
    """Return the words with the demo's config first, unless they name a config or a task."""
    named = any(word.split("=")[0] in ("--config", "--task") for word in argv)
    return list(argv) if named else ["--config", str(CONFIGS / "demo.yaml"), *argv]


def compare(config: RunConfig) -> list[dict[str, Any]]:
    """Run every method with every seed; each row of results is on the disk before the next run starts."""
    rows = load_task_rows(config.task, data_dir=config.data_dir)
    for notice in rows.notices:
        print(f"note: {notice}")
    prepared = prepare(config, rows)
    folder = make_output_folder(config.output, task=config.task)
    results: list[dict[str, Any]] = []
    # Methods alternate within a seed, so that a machine that slows down slows all of them down.
    for seed in config.seeds:
        for method in config.method:
            name = _run_name(method, seed)
            print(f"{name}: training", flush=True)
            row = run_once(config, prepared, method=method, seed=seed, folder=folder / name)
            results.append(row)
            _append(folder / "results.jsonl", row)
    for method in config.method:
        files = [folder / _run_name(method, seed) / "metrics.jsonl" for seed in config.seeds]
        plot_losses(files, title=f"{method} on {config.task}", path=folder / f"loss-{_plain(method)}.png")
    print_table(results, title=f"{config.task}: {len(config.seeds)} seeds, validation split")
    print(f"results, plots and adapters: {folder}")
    return results


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def _run_name(method: str, seed: int) -> str:
    return f"{_plain(method)}-seed{seed}"


def _plain(method: str) -> str:
    """Return a method's name as part of a file name: that of a user's own holds dots and a colon."""
    return method.replace(":", "-")


def _fail(error: object, code: int) -> int:
    print(f"{PROGRAM}: error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
