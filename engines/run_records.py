"""What a run writes down as it goes on, and of its answers at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from bilora import BiloraConfig
from bilora.engines.callbacks import Callback
from bilora.engines.metrics_file import MetricsFile
from bilora.engines.scored_on import VALIDATION
from bilora.engines.times_file import TimesFile
from bilora.engines.values_file import ValuesFile


def has_values(model: PeftModel) -> bool:
    """Return whether the active adapter is a BiLoRA one, with pseudo singular values."""
    return isinstance(model.peft_config[model.active_adapter], BiloraConfig)


def run_records(model: PeftModel, folder: Path, *, scored_on: str = VALIDATION) -> tuple[Callback, ...]:
    """Return the callbacks that write ``metrics.jsonl``, ``times.jsonl`` and, of singular values, ``values.jsonl``."""
    files = (MetricsFile(folder / "metrics.jsonl", scored_on=scored_on), TimesFile(folder / "times.jsonl"))
    return (*files, ValuesFile(folder / "values.jsonl", model)) if has_values(model) else files


def write_predictions(predictions: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> None:
    """Write ``predictions-<set>.jsonl`` for every set, the one that gives the score first."""
    for name, rows in predictions.items():
        lines = [json.dumps(each, allow_nan=False, ensure_ascii=False) + "\n" for each in rows]
        (folder / f"predictions-{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_texts(files: Mapping[str, str], folder: Path) -> None:
    """Write the files that a kind of task makes of its answers, such as those that an official scorer reads."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
