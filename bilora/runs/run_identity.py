"""What names a run in a table of results."""

from __future__ import annotations

from typing import Any

from bilora.data.task_protocol import AnyTask
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.problems.catalog import find_variant
from bilora.runs.config import RunConfig, has_formulation
from bilora.settings.checked import resolved


def run_identity(config: RunConfig, task: AnyTask, *, method: str, seed: int) -> dict[str, Any]:
    """Return the part of a row of results that says which run it is.

    Args:
        config: The config.
        task: The task that its rows are of.
        method: One of the config's methods.
        seed: One of the config's seeds.

    Example:
        >>> from bilora.tasks.catalog import TASKS
        >>> run_identity(RunConfig(), TASKS["mrpc"], method="lora", seed=1)["metric"]
        'accuracy'
    """
    variant = find_variant(method)
    return {
        "task": task.name,
        "method": method,
        "formulation": config.settings_of(method).formulation if has_formulation(method) else None,
        "hypergradient": spoken_hypergradient(variant.hypergradient or config.hypergradient) if variant.upper else None,
        "seed": seed,
        "metric": task.metric,
    }


def spoken_hypergradient(chosen: str | dict[str, Any]) -> str:
    """Return the hypergradient's name, and what of its settings is not the default.

    Example:
        >>> spoken_hypergradient({"name": "darts", "finite_difference": "forward"})
        'darts(finite_difference=forward)'
    """
    if isinstance(chosen, str):
        return chosen
    name = str(chosen["name"])
    default = resolved(build_hypergradient(name))
    own = resolved(build_hypergradient(chosen))
    if not isinstance(own, dict):
        return name
    said = [f"{key}={value}" for key, value in own.items() if value != default[key]]
    return f"{name}({', '.join(said)})" if said else name
