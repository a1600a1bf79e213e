"""What a run writes of its results: the row of the table, and what ``all_results.json`` has beyond it."""

from __future__ import annotations

import dataclasses
from typing import Any

from peft import PeftModel

from bilora import trainable_parameters
from bilora.artifacts.scored_on import named_loss
from bilora.artifacts.versions import versions
from bilora.engines.training.fit_result import FitResult
from bilora.runs.evaluation import Scores


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
        identity: Task, method and seed, see :func:`~bilora.runs.run_identity.run_identity`.
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
        **named_loss(scores.metrics["loss"], scored_on),
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
