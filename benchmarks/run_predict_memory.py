"""Peak memory of ``bilora predict`` on many rows against few, with a tiny random model.

Each size is a process of its own, which tells its peak of resident memory and its CPU time. Examples::

    python benchmarks/run_predict_memory.py --rows 10000 1000000
    python benchmarks/run_predict_memory.py --rows 2000 20000 --form .parquet
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from bilora import BiloraConfig
from bilora.artifacts.adapter_files import save_adapter
from bilora.artifacts.fingerprint import versions
from bilora.files.row_writers import SUFFIXES, TEXT_WRITERS, Parquet, schema_of
from bilora.models.embedded import embedded_model_folder
from bilora.models.pretrained import quiet_transformers
from bilora.tasks.kinds import write_task
from bilora.tasks.text.task import TextTask

PROGRAM = "run_predict_memory.py"
LENGTH = 8
CHILD = """
import sys, time
from torch import device
from bilora.runs.results import PeakMemory
from bilora_command import main
peak = PeakMemory(device("cpu"))
code = main(sys.argv[1:])
print(peak.megabytes(), time.process_time())
sys.exit(code)
"""


def main(argv: Sequence[str]) -> int:
    """Measure each size, and print the ratio of the last to the first."""
    options = _options(argv)
    quiet_transformers()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_adapter(folder)
        sizes = [measured(folder, rows, form=options.form) for rows in options.rows]
    print(shlex.join(["python", f"benchmarks/{PROGRAM}", *argv]))
    print(json.dumps(versions()))
    for size in sizes:
        print(
            f"{size['rows']:,} rows of {options.form}: {size['megabytes']:.1f} MiB, {size['cpu_seconds']:.0f} s of CPU"
        )
    print(f"ratio of peak memory: {sizes[-1]['megabytes'] / sizes[0]['megabytes']:.3f}")
    return 0


def write_adapter(folder: Path) -> None:
    """Write a random base model of one layer, and an adapter on it for two classes."""
    torch.manual_seed(0)
    base, adapter = folder / "base", folder / "adapter"
    sizes: Any = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(max_position_embeddings=LENGTH, **sizes)).save_pretrained(base)
    AutoTokenizer.from_pretrained(embedded_model_folder()).save_pretrained(base)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model = get_peft_model(model, BiloraConfig(task_type="SEQ_CLS", r=1, init_weights=False))
    model.peft_config["default"].base_model_name_or_path = str(base)
    adapter.mkdir()
    save_adapter(model, adapter)
    write_task(adapter, TextTask("rows", ("text",), ("no", "yes"), labels_from="rows.csv"), max_length=LENGTH)


def measured(folder: Path, count: int, *, form: str) -> dict[str, float]:
    """Return peak memory and CPU time of a prediction of so many rows from and to files of a form."""
    source, output = folder / f"rows{count}{form}", folder / f"answers{count}{form}"
    write_rows(source, count)
    words = ["predict", str(folder / "adapter"), "--file", str(source), "--output", str(output), "--device", "cpu"]
    # By itself: what the system counts of a child begins with the memory of the process that starts it.
    child = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True)
    if child.returncode != 0:
        raise SystemExit(f"bilora predict ended with code {child.returncode}: {child.stderr}")
    peak, seconds = child.stdout.split()[-2:]
    return {"rows": count, "megabytes": float(peak), "cpu_seconds": float(seconds)}


def write_rows(path: Path, count: int) -> None:
    """Write a file of short texts."""
    columns = ["id", "text"]
    if path.suffix == ".parquet":
        writer: Any = Parquet(path, schema_of(_part(0, 1)))
    else:
        file = path.open("w", encoding="utf-8", newline="")
        writer = TEXT_WRITERS[path.suffix](file, columns)
    for first in range(0, count, 1000):
        writer.write(_part(first, min(first + 1000, count)))
    writer.close()


def _part(first: int, end: int) -> list[dict[str, Any]]:
    return [{"id": row, "text": f"text {row % 977} of rows"} for row in range(first, end)]


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000], help="sizes, the small one first")
    parser.add_argument("--form", choices=SUFFIXES, default=".csv", help="of the files that are read and written")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
