"""What a run writes of its results: the row of the table, and what ``all_results.json`` has beyond it."""

import contextlib
import dataclasses
import gc
import json
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from bilora import BiloraConfig, trainable_parameters
from bilora.artifacts.fingerprint import versions
from bilora.artifacts.scored_on import VALIDATION, loss_by_name
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile, TimesFile, ValuesFile
from bilora.engines.training.result import FitResult
from bilora.runs.config import RunConfig, has_formulation, short_hypergradient
from bilora.runs.evaluation import Scores
from bilora.tasks.task import AnyTask


def results_row(
    identity: dict[str, Any],
    scores: Scores,
    result: FitResult,
    model: PeftModel,
    *,
    scored_on: str,
    megabytes: float,
    config_sha256: str,
) -> dict[str, Any]:
    """Return the row of one run, whose numbers need not be finite.

    Args:
        identity: Task, method and seed, see :func:`~bilora.runs.results.run_identity`.
        scores: What the finished model scores.
        result: What came of the training.
        model: The finished model.
        scored_on: What the rows that give the score are.
        megabytes: Peak memory, in MiB.
        config_sha256: Hash of the run's config.
    """
    return identity | {
        "score": scores.score,
        "train_loss": scores.train_loss,
        **loss_by_name(scores.metrics["loss"], scored_on),
        "metrics": scores.metrics,
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "peak_memory_mb": round(megabytes, 1),
        "trainable_parameters": sum(each.numel() for each in trainable_parameters(model).values()),
        "config_sha256": config_sha256,
        "versions": versions(),
    }


def training_details(result: FitResult) -> dict[str, Any]:
    """Return what is told of the training beside the row: upper steps, stages, and what was skipped or stopped."""
    return {
        "upper_steps": result.upper_steps,
        "best_step": result.best_step,
        "stop_reason": result.stop_reason,
        "skipped_steps": result.skipped_steps,
        "skipped_upper_steps": result.skipped_upper_steps,
        "stages": [dataclasses.asdict(each) for each in result.stages],
    }


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


def run_identity(config: RunConfig, task: AnyTask) -> dict[str, Any]:
    """Return the part of a row of results that says which run it is.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> run_identity(RunConfig(method="lora"), TASKS["mrpc"])["metric"]
        'accuracy'
    """
    variant = config.variant
    return {
        "task": task.name,
        "method": config.method,
        "formulation": config.variant_settings.formulation if has_formulation(config.method) else None,
        "hypergradient": spoken_hypergradient(variant.hypergradient or config.hypergradient) if variant.upper else None,
        "seed": config.seed,
        "metric": task.metric,
    }


def spoken_hypergradient(chosen: str | dict[str, Any]) -> str:
    """Return the hypergradient's name, and what of its settings is not what it is by itself.

    Example:
        >>> spoken_hypergradient({"name": "darts", "finite_difference": "forward"})
        'darts(finite_difference=forward)'
    """
    name, settings = short_hypergradient(chosen)
    return f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})" if settings else name


STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


class PeakMemory:
    """Peak memory from the moment this is made: of the GPU on CUDA, else of the whole process.

    On Linux the process's own high-water mark is set back first. Elsewhere it cannot be, and the number is
    the peak since the process began.

    Args:
        device: Where the run takes place.

    Example:
        >>> PeakMemory(torch.device("cpu")).megabytes() > 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif RESET.exists():
            # Some containers show the file and refuse the writing.
            with contextlib.suppress(OSError):
                # 5 sets the peak of the resident memory back to what it is now (Linux, proc(5)).
                RESET.write_text("5")

    def megabytes(self) -> float:
        """Return the peak so far, in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if STATUS.exists():
            found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
            if found:
                return int(found.group(1)) / 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
