"""What a run writes down as it goes on, and of its answers at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from bilora import BiloraConfig
from bilora.artifacts.scored_on import VALIDATION
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.metrics_file import MetricsFile
from bilora.engines.callbacks.times_file import TimesFile
from bilora.engines.callbacks.values_file import ValuesFile


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


def read_predictions(path: Path) -> list[dict[str, Any]] | None:
    """Return the lines of a ``predictions-<set>.jsonl``, or None where the run kept none.

    Example:
        >>> read_predictions(Path("no-such-file")) is None
        True
    """
    if not path.is_file():
        return None
    # Not splitlines: a text may hold other line separators, which are no ends of lines in JSON.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
