"""How well the two judges of ``bilora check-labels`` find labels that are known to be wrong.

BILORA_DATA=DIR python benchmarks/run_check_labels.py --rows 1000

The rows are training rows of ``noisyag_news`` (``DIR/text/noisyag_news/train.jsonl.gz``), whose labels were given by
people and programs; ``true_label`` scores the answers and is shown to no judge.
"""

import argparse
import gzip
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
from sklearn.metrics import roc_auc_score

from bilora.artifacts.fingerprint import versions
from bilora.commands.check_labels import JUDGES, CheckLabelsConfig
from bilora.runs.label_issues import class_names, find_issues, suspicion
from bilora.runs.out_of_sample import folds_of
from bilora.runs.plan import load_run_rows

FIRST = 200


def drawn_rows(data: Path, count: int, *, seed: int) -> list[dict[str, Any]]:
    """Return so many training rows, in an order that the seed decides."""
    path = data / "text" / "noisyag_news" / "train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    random.Random(seed).shuffle(rows)
    return rows[:count]


def measured(
    judge: str, rows: list[dict[str, Any]], folder: Path, *, folds: int, epochs: int, seed: int
) -> dict[str, Any]:
    """Return how often the first rows named are wrong, and the area under the curve of all."""
    path = folder / f"{judge}.jsonl"
    shown = [{"text": row["text"], "label": row["label"]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in shown), encoding="utf-8")
    given: Any = {"by": judge, "folds": folds, "epochs": epochs, "seed": seed}
    config = CheckLabelsConfig(str(path), text_columns=["text"], device="cpu", **given)
    run = config.run_config(("text",), rows=len(rows))
    loaded = load_run_rows(run)
    parts = folds_of(loaded.train, folds, names=class_names(loaded.task), seed=seed)
    started = time.perf_counter()
    chances = JUDGES[judge](run, loaded, parts, parts=folder / "parts")
    seconds = time.perf_counter() - started
    wrong = numpy.array([row["label"] != row["true_label"] for row in rows])
    named = [issue.row - 1 for issue in find_issues(loaded.train, loaded.task, chances)]
    doubts = suspicion([int(label) for label in loaded.train.labels if isinstance(label, int)], chances)
    return {
        "judge": judge,
        "rows": len(rows),
        "folds": len(parts),
        "seed": seed,
        "wrong": round(float(wrong.mean()), 4),
        "named": len(named),
        "precision_named": round(float(wrong[named].mean()), 4),
        f"precision_{FIRST}": round(float(wrong[numpy.argsort(-doubts, kind="stable")[:FIRST]].mean()), 4),
        "auc": round(float(roc_auc_score(wrong, doubts)), 4),
        "seconds": round(seconds, 1),
        "versions": versions(),
    }


def _options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--folds", type=int, default=CheckLabelsConfig.folds)
    parser.add_argument("--epochs", type=int, default=CheckLabelsConfig.epochs)
    parser.add_argument("--seed", type=int, default=CheckLabelsConfig.seed, help="of the draw of rows and of the folds")
    parser.add_argument("--judges", nargs="+", choices=list(JUDGES), default=list(JUDGES))
    return parser.parse_args(argv)


def main() -> None:
    """Print a line of JSON per judge."""
    options = _options()
    rows = drawn_rows(Path(os.environ["BILORA_DATA"]), options.rows, seed=options.seed)
    for judge in options.judges:
        with tempfile.TemporaryDirectory() as folder:
            given = {"folds": options.folds, "epochs": options.epochs, "seed": options.seed}
            line = measured(judge, rows, Path(folder), **given)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
