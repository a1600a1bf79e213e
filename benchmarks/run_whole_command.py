"""CPU time and peak memory of ``bilora train``, from its start to its end, against a bare loop of the same passes.

The bare loop is a script of its own: it imports the libraries that the command works with, loads the same model, puts
PEFT's LoRA on it, makes as many forward and backward passes on batches of the same rows, and validates once. Both are
processes with one thread, in turns; the ratio is the median over the rounds. Examples::

    python benchmarks/run_whole_command.py --output benchmarks/results/whole_command.jsonl
    python benchmarks/run_whole_command.py --rows 60 --steps 4 --rounds 1
"""

import argparse
import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilora.artifacts.fingerprint import versions
from bilora.models.embedded import embedded_model_folder, embedded_reviews
from bilora.tasks.sources import take_rows

PROGRAM = "run_whole_command.py"
VALIDATION_ROWS = 50
BATCH = 16
MAX_LENGTH = 128
# The command in a process that tells at its end what it has used.
TOLD = """
import resource, sys, time
def tell():
    print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
OURS = (
    TOLD
    + """
from bilora_command import main
code = main(sys.argv[1:])
tell()
sys.exit(code)
"""
)
BARE = (
    TOLD
    + """
import csv
import betty, datasets, evaluate, sklearn, torch, transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

base, train, validation, steps, batch_size, max_length = sys.argv[1:]
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"]))
collate = DataCollatorWithPadding(tokenizer)

def loader(path, shuffle):
    with open(path, newline="") as file:
        rows = [
            {**tokenizer(row["text"], truncation=True, max_length=int(max_length)), "label": row["label"] == "good"}
            for row in csv.DictReader(file)
        ]
    return torch.utils.data.DataLoader(rows, int(batch_size), shuffle=shuffle, drop_last=shuffle, collate_fn=collate)

optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-3)
batches, done = loader(train, True), 0
model.train()
while done < int(steps):
    for batch in batches:
        batch["labels"] = batch["labels"].long()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        if done == int(steps):
            break
model.eval()
right = 0
with torch.no_grad():
    for batch in loader(validation, False):
        labels = batch.pop("labels")
        right += int((model(**batch).logits.argmax(-1) == labels).sum())
model.save_pretrained(train + ".adapter")
tell()
"""
)


def main(argv: Sequence[str]) -> int:
    """Measure, print and write."""
    options = _options(argv)
    with tempfile.TemporaryDirectory() as name:
        turns = [measured(Path(name), number, options) for number in range(options.rounds)]
    about = {"command": shlex.join(["python", f"benchmarks/{PROGRAM}", *argv]), "versions": versions()}
    print(f"{about['command']}\n{json.dumps(about['versions'])}")
    numbers: dict[str, float] = {}
    for what, unit in (("cpu_seconds", "s of CPU"), ("megabytes", "MiB")):
        ours, bare = (statistics.median(turn[who][what] for turn in turns) for who in ("ours", "bare"))
        ratio = statistics.median(turn["ours"][what] / turn["bare"][what] for turn in turns)
        print(f"bilora train {ours:.1f} {unit}, the bare loop {bare:.1f}; median ratio {ratio:.3f}")
        numbers |= {f"{what}_ours": ours, f"{what}_bare": bare, f"{what}_ratio": ratio}
    if options.output is not None:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**numbers, **vars(options), **about, "output": None, "turns": turns}) + "\n")
    return 0


def measured(folder: Path, number: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return what each of the two took in one round; which goes first alternates."""
    train, validation = folder / "train.csv", folder / "validation.csv"
    if number == 0:
        write_rows(train, validation, options.rows)
    words: dict[str, list[Any]] = {
        "ours": [
            *(OURS, "train", "--train-file", train, "--validation-file", validation, "--output", folder / f"{number}"),
            *("--method", options.method, "--steps", options.steps, "--lower.batch-size", BATCH),
            *("--max-length", MAX_LENGTH, "--device", "cpu"),
        ],
        "bare": [BARE, embedded_model_folder(), train, validation, options.steps, BATCH, MAX_LENGTH],
    }
    return {who: ended(words[who]) for who in (("bare", "ours") if number % 2 else ("ours", "bare"))}


def ended(words: Sequence[Any]) -> dict[str, float]:
    """Return the CPU time and the peak of resident memory of a program, which its last line tells."""
    command = [sys.executable, "-c", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    if child.returncode != 0:
        raise SystemExit(f"{words[1]} ended with code {child.returncode}: {child.stderr}")
    seconds, megabytes = child.stdout.split()[-2:]
    return {"cpu_seconds": float(seconds), "megabytes": float(megabytes)}


def write_rows(train: Path, validation: Path, count: int) -> None:
    """Write embedded sentences as two csv files."""
    rows = take_rows(embedded_reviews(), count + VALIDATION_ROWS, seed=0)
    named = [{"text": row["text"], "label": ("bad", "good")[row["label"]]} for row in rows]
    # They come sorted by their labels.
    held = set(range(0, len(named), len(named) // VALIDATION_ROWS)[:VALIDATION_ROWS])
    parts = [[row for index, row in enumerate(named) if (index in held) is wanted] for wanted in (False, True)]
    for path, part in zip((train, validation), parts, strict=True):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(part)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--method", default="lora", help="of the command; lora makes the passes of the bare loop")
    parser.add_argument("--rows", type=int, default=500, help="training rows")
    parser.add_argument("--steps", type=int, default=150, help="steps of both")
    parser.add_argument("--rounds", type=int, default=3, help="times that each of the two is run")
    parser.add_argument("--output", type=Path, help="jsonl file that the numbers are added to")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
