"""``trainer_state.json``: a run in the form that readers of transformers' Trainer know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bilora.artifacts.scored_on import UPPER, numbers_in


def trainer_state(lines: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state from the lines of ``metrics.jsonl`` and ``all_results.json``: the history, and the best step.

    Example:
        >>> lines = [{"step": 1, "lower_loss": 0.7, "lower_learning_rates": [0.1], "lower_gradient_norm": 2.0}]
        >>> lines += [{"step": 1, "validation": {"loss": 0.6, "accuracy": 0.5}}]
        >>> state = trainer_state(lines, {"metric": "accuracy", "score": 0.5, "steps": 1, "best_step": 1})
        >>> state["log_history"][1]
        {'step': 1, 'eval_loss': 0.6, 'eval_accuracy': 0.5}
    """
    return {
        "best_global_step": results["best_step"],
        "best_metric": results["score"],
        "best_model_checkpoint": None,
        "global_step": results["steps"],
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": [_entry(line) for line in lines],
        "max_steps": results["steps"],
        "metric_for_best_model": results["metric"],
    }


def _entry(line: Mapping[str, Any]) -> dict[str, Any]:
    numbers = numbers_in(line)
    if numbers is not None:
        prefix = UPPER if UPPER in line else "eval"
        return {"step": line["step"], **{f"{prefix}_{name}": value for name, value in numbers.items()}}
    entry = {
        "step": line["step"],
        "loss": line["lower_loss"],
        "grad_norm": line["lower_gradient_norm"],
        "learning_rate": max(line["lower_learning_rates"]),
    }
    if "upper_loss" in line:
        entry |= {"upper_loss": line["upper_loss"], "hypergradient_norm": line["hypergradient_norm"]}
    return entry
