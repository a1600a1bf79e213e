"""The lower steps that the next upper step will come back to, as a part of a checkpoint."""

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
        "steps": [_step_state(step) for step in lower._steps],
        "unfinished": None if lower._recorded is None else _step_state(lower._recorded),
        "buffers": sorted(lower._buffers.names),
    }


def load_recorded(lower: LowerProblem, state: Any) -> None:
    """Set a lower level to the value of :func:`recorded_state`; refuse one that is not whole."""
    part = f"{lower.name}.recorded"
    recorded = check_keys(state, ("steps", "unfinished", "buffers"), part=part)
    lower._steps.clear()
    lower._steps.extend(_step(step, lower.device, part=part) for step in recorded["steps"])
    unfinished = recorded["unfinished"]
    lower._recorded = None if unfinished is None else _step(unfinished, lower.device, part=part)
    lower._buffers.names = frozenset(recorded["buffers"])


def _step_state(step: LowerStep) -> dict[str, Any]:
    # Field by field: dataclasses.asdict would copy every tensor.
    state = {name: getattr(step, name) for name in STEP}
    state["micro_batches"] = [
        {"batch": micro_batch.batch, "random_state": micro_batch.random_state.to_tree()}
        for micro_batch in step.micro_batches
    ]
    state["optimizer"] = [{name: getattr(snapshot, name) for name in SNAPSHOT} for snapshot in step.optimizer]
    return state


def _step(state: Any, device: torch.device, *, part: str) -> LowerStep:
    fields = dict(check_keys(state, STEP, part=part))
    micro_batches = [check_keys(saved, ("batch", "random_state"), part=part) for saved in fields.pop("micro_batches")]
    snapshots = [check_keys(saved, SNAPSHOT, part=part) for saved in fields.pop("optimizer")]
    return LowerStep(
        micro_batches=[
            # The random state stays where it is: generators take theirs from the CPU.
            MicroBatch(
                to_device(saved["batch"], device),
                RandomState.from_tree(saved["random_state"], device=device, part=part),
            )
            for saved in micro_batches
        ],
        optimizer=tuple(OptimizerSnapshot(**to_device(dict(saved), device)) for saved in snapshots),
        **to_device(fields, device),
    )
