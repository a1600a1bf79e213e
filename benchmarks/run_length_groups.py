"""What batches of nearly one length save: a fit with and one without, in turns, on real sentences of all lengths.

Every round fits the embedded MiniLM for the same number of steps on the embedded sentences, once with
``group_by_length`` and once without; the ratio is the median over the rounds of their times per lower step. Examples::

    python benchmarks/run_length_groups.py --output benchmarks/results/length_groups.jsonl
    python benchmarks/run_length_groups.py --rows 40 --steps 4 --rounds 1
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bilora import BiloraConfig
from bilora.artifacts.fingerprint import versions
from bilora.engines import FitSettings, LevelSettings, fit
from bilora.models.embedded import embedded_model_folder, embedded_reviews
from bilora.models.pretrained import quiet_transformers
from bilora.tasks.sources import take_rows
from bilora.tasks.text.batches import Collator

PROGRAM = "run_length_groups.py"


def main(argv: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _options(argv)
    quiet_transformers()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
    texts = take_rows(embedded_reviews(), options.rows, seed=0)
    rows = [
        {**tokenizer(row["text"], truncation=True, max_length=options.max_length), "labels": row["label"]}
        for row in texts
    ]
    numbers = measured(rows, tokenizer, options)
    about = {"command": shlex.join(["python", f"benchmarks/{PROGRAM}", *argv]), "versions": versions()}
    print(
        f"{about['command']}\n{options.rows} sentences, {options.batch_size} per batch, one thread: grouped by length "
        f"{numbers['grouped_ms']:.0f} ms per lower step, shuffled {numbers['shuffled_ms']:.0f} ms, ratio "
        f"{numbers['ratio']:.3f} by wall clock and {numbers['cpu_ratio']:.3f} by CPU time; "
        f"tokens with padding {numbers['token_ratio']:.3f}"
    )
    if options.output is not None:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**numbers, **about}, allow_nan=False) + "\n")
    return 0


def measured(rows: list[dict[str, Any]], tokenizer: Any, options: argparse.Namespace) -> dict[str, float]:
    """Return the medians over the rounds; which of the two goes first alternates."""
    rounds = []
    for number in range(options.rounds):
        order = (True, False) if number % 2 else (False, True)
        rounds.append({grouped: Timed(rows, tokenizer, grouped, options) for grouped in order})

    def ratio(what: str) -> float:
        return statistics.median(float(getattr(turns[True], what) / getattr(turns[False], what)) for turns in rounds)

    return {
        "grouped_ms": 1e3 * statistics.median(turns[True].wall for turns in rounds) / options.steps,
        "shuffled_ms": 1e3 * statistics.median(turns[False].wall for turns in rounds) / options.steps,
        "ratio": ratio("wall"),
        "cpu_ratio": ratio("cpu"),
        "token_ratio": ratio("tokens"),
        "rounds": options.rounds,
    }


class Timed:
    """One fit: its time, and the tokens that went through the model, padding among them."""

    def __init__(self, rows: list[dict[str, Any]], tokenizer: Any, grouped: bool, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        base = AutoModelForSequenceClassification.from_pretrained(embedded_model_folder(), num_labels=2)
        model = get_peft_model(base, BiloraConfig(task_type="SEQ_CLS", formulation="softmax"))
        self.tokens = 0
        collator = Collator(tokenizer)

        def collate(some: Any) -> Any:
            batch = collator(some)
            self.tokens += batch["input_ids"].numel()
            return batch

        level = LevelSettings(learning_rate=1e-3, batch_size=options.batch_size)
        settings = FitSettings(
            steps=options.steps,
            unroll_steps=4,
            hypergradient={"finite_difference": "central"},
            lower=level,
            upper=level,
            group_by_length=grouped,
            device="cpu",
        )
        started = time.perf_counter(), time.process_time()
        fit(model, rows, collate=collate, variant="bilora", settings=settings)
        self.wall, self.cpu = time.perf_counter() - started[0], time.process_time() - started[1]


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="What grouping by length saves.", allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="whole passes over the rows: long batches come first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a file to append a JSON line to")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
