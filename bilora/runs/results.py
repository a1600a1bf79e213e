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
from bilora.files.formats import read_lines, write_whole
from bilora.problems.stage import Stage
from bilora.runs.config import RunConfig, has_formulation
from bilora.runs.config_hash import short_hypergradient
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
    """Return the row of one run, whose numbers need not be finite; ``identity`` is its :func:`run_identity`."""
    return identity | {
        "score": scores.score,
        "train_loss": scores.train_loss,
        **loss_by_name(scores.metrics["loss"], scored_on),
        "metrics": scores.metrics,
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "peak_memory_mb": round(megabytes, 1),
        "trainable_parameters": sum(parameter.numel() for parameter in trainable_parameters(model).values()),
        "config_sha256": config_sha256,
        "versions": versions(),
    }


def training_details(result: FitResult, stages: Sequence[Stage]) -> dict[str, Any]:
    """Return what is told of the training beside the row: upper steps, stages, and what was skipped or stopped."""
    return {
        "upper_steps": result.upper_steps,
        "best_step": result.best_step,
        "stop_reason": result.stop_reason,
        "skipped_steps": result.skipped_steps,
        "skipped_upper_steps": result.skipped_upper_steps,
        # A run that a callback ended has made fewer than were planned.
        "stages": [
            dataclasses.asdict(made) | {"title": stage.title}
            for made, stage in zip(result.stages, stages, strict=False)
        ],
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
        # As the user wrote them: escapes would make texts in other scripts unreadable.
        lines = [json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows]
        write_whole(folder / f"predictions-{name}.jsonl", "".join(lines))


def read_predictions(path: Path) -> list[dict[str, Any]] | None:
    """Return the lines of a ``predictions-<set>.jsonl``, or None where the run kept none."""
    return read_lines(path) if path.is_file() else None


def run_identity(config: RunConfig, task: AnyTask) -> dict[str, Any]:
    """Return the part of a row of results that says which run it is."""
    variant = config.variant
    # A variant that is defined by its hypergradient has its own, whatever the config says.
    hypergradient = variant.hypergradient or config.hypergradient
    return {
        "task": task.name,
        "method": config.method,
        "formulation": config.variant_settings.formulation if has_formulation(config.method) else None,
        "hypergradient": spoken_hypergradient(hypergradient) if variant.upper else None,
        "seed": config.seed,
        "metric": task.metric,
    }


def spoken_hypergradient(hypergradient: str | dict[str, Any]) -> str:
    """Return the hypergradient's name, and what of its settings is not what it is by itself."""
    name, settings = short_hypergradient(hypergradient)
    return f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})" if settings else name


STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


class PeakMemory:
    """Peak memory from the moment this is made: of the GPU on CUDA, else of the whole process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # What the run before left in cycles is not this run's.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Only Linux has the file, and some containers show it and refuse the writing; there the number is the peak
            # since the process began. 5 sets the peak of the resident memory back to what it is now (proc(5)).
            with contextlib.suppress(OSError):
                RESET.write_text("5")

    def megabytes(self) -> float:
        """Return the peak so far, in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        # Not ru_maxrss where there is another: writing to clear_refs does not set that one back.
        if STATUS.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())):
            return int(peak.group(1)) / 2**10
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest / 2**20 if sys.platform == "darwin" else largest / 2**10  # bytes on macOS, KiB elsewhere
