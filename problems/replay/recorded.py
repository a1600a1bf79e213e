"""The lower steps that the next upper step will come back to, as a state."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from bilora.files.state import check_keys
from bilora.problems.replay.lower_step import LowerStep, MicroBatch, OptimizerSnapshot
from bilora.problems.replay.random_state import RandomState
from bilora.tensors import to_device

if TYPE_CHECKING:
    from bilora.problems.levels.lower import LowerProblem


STEP = tuple(field.name for field in dataclasses.fields(LowerStep))
SNAPSHOT = tuple(field.name for field in dataclasses.fields(OptimizerSnapshot))


def recorded_state(lower: LowerProblem) -> dict[str, Any]:
    """Return the recorded steps, the one that is being accumulated, and which buffers forward passes change."""
    return {
        "steps": [_step_state(each) for each in lower._steps],
        "unfinished": None if lower._recorded is None else _step_state(lower._recorded),
        "buffers": sorted(lower._buffers.names),
    }


def load_recorded(lower: LowerProblem, state: Any) -> None:
    """Take over what :func:`recorded_state` returned.

    Raises:
        CheckpointError: Something is missing or left over.
    """
    part = f"{lower.name}.recorded"
    found = check_keys(state, ("steps", "unfinished", "buffers"), part=part)
    lower._steps.clear()
    lower._steps.extend(_step(each, lower.device, part=part) for each in found["steps"])
    unfinished = found["unfinished"]
    lower._recorded = None if unfinished is None else _step(unfinished, lower.device, part=part)
    lower._buffers.names = frozenset(found["buffers"])


def _step_state(step: LowerStep) -> dict[str, Any]:
    state = {name: getattr(step, name) for name in STEP}
    state["micro_batches"] = [
        {"batch": each.batch, "random_state": each.random_state.to_tree()} for each in step.micro_batches
    ]
    state["optimizer"] = [{name: getattr(each, name) for name in SNAPSHOT} for each in step.optimizer]
    return state


def _step(state: Any, device: torch.device, *, part: str) -> LowerStep:
    found = dict(check_keys(state, STEP, part=part))
    micro_batches = [check_keys(each, ("batch", "random_state"), part=part) for each in found.pop("micro_batches")]
    snapshots = [check_keys(each, SNAPSHOT, part=part) for each in found.pop("optimizer")]
    return LowerStep(
        micro_batches=[
            MicroBatch(
                to_device(each["batch"], device),
                RandomState.from_tree(each["random_state"], device=device, part=part),
            )
            for each in micro_batches
        ],
        optimizer=tuple(OptimizerSnapshot(**to_device(dict(each), device)) for each in snapshots),
        **to_device(found, device),
    )
