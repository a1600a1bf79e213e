"""The state of a level: everything that its next step depends on, in the parts of a checkpoint."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from bilora.errors import CheckpointError
from bilora.files.state import check_keys
from bilora.problems.levels.level import Level
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.report import LevelReport
from bilora.problems.replay.recorded import load_recorded, recorded_state
from bilora.tensors import to_device

GROUP = ("lr", "initial_lr", "weight_decay")

PARTS = ("parameters", "optimizer", "scheduler", "scaler", "progress", "loaders", "extra")
"""Parts of the state of every level; a lower one has ``recorded`` as well."""


@contextmanager
def rates_kept(level: Level) -> Iterator[None]:
    """Load a state within the block; the rates of before are then those at the step of the schedule that was loaded."""
    scheduler = level.learning_rate_scheduler
    # Of a LambdaLR alone the rate follows from the number of steps, so that another peak can be put in.
    if not isinstance(scheduler, LambdaLR):
        raise CheckpointError(
            f"the settings of level {level.name!r} cannot change within a run: its scheduler is a "
            f"{type(scheduler).__name__}, whose rate depends on more than the number of steps"
        )
    # Read before the optimizer's and the scheduler's state, which hold the rates of the checkpoint, and put after it.
    rates = [{name: group[name] for name in GROUP if name in group} for group in level.optimizer.param_groups]
    peaks = [float(rate) for rate in scheduler.base_lrs]
    yield
    groups = level.optimizer.param_groups
    for group, built, factor, peak in zip(groups, rates, scheduler.lr_lambdas, peaks, strict=True):
        group.update(built, lr=peak * factor(scheduler.last_epoch))
    scheduler.base_lrs = list(peaks)
    scheduler._last_lr = [group["lr"] for group in groups]


def level_state(level: Level) -> dict[str, Any]:
    """Return the state of a level, by part; of a lower level also the steps that the next upper step comes back to."""
    scheduler, scaler = level.learning_rate_scheduler, level.scaler
    state = {
        "parameters": {name: parameter.detach() for name, parameter in level.named_level_parameters().items()},
        "optimizer": level.optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "progress": _progress(level),
        "loaders": level.loaders_state(),
        "extra": level.extra_state(),
    }
    return state | ({"recorded": recorded_state(level)} if isinstance(level, LowerProblem) else {})


def load_level_state(level: Level, state: Any, *, keep_rates: bool = False) -> None:
    """Give a level that was built from the same settings the state of another one."""
    expected = (*PARTS, "recorded") if isinstance(level, LowerProblem) else PARTS
    parts = check_keys(state, expected, part=f"level {level.name}")
    load_parameters(level.named_level_parameters(), parts["parameters"], part=f"{level.name}.parameters")
    with rates_kept(level) if keep_rates else nullcontext():
        _load_optimizer(level.optimizer, parts["optimizer"], part=f"{level.name}.optimizer")
        for name, target in (("scheduler", level.learning_rate_scheduler), ("scaler", level.scaler)):
            _load_optional(target, parts[name], part=f"{level.name}.{name}")
    _load_progress(level, parts["progress"])
    level.load_loaders_state(parts["loaders"])
    check_keys(parts["extra"], list(level.extra_state()), part=f"{level.name}.extra")
    level.load_extra_state(parts["extra"])
    if isinstance(level, LowerProblem):
        load_recorded(level, parts["recorded"])


def load_parameters(parameters: Mapping[str, nn.Parameter], values: Any, *, part: str) -> None:
    """Copy values into parameters of the same names, shapes and types; refuse any others."""
    values = check_keys(values, list(parameters), part=part)
    # All are checked before any is written, so that a refused checkpoint leaves the model as it was.
    for name, parameter in parameters.items():
        _check_like(values[name], parameter, part=f"{part}: {name}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Any, *, part: str) -> None:
    saved = check_keys(state, ("state", "param_groups"), part=part)
    groups = optimizer.state_dict()["param_groups"]
    if len(saved["param_groups"]) != len(groups):
        raise CheckpointError(
            f"checkpoint does not fit: {part} has {len(saved['param_groups'])} groups, here there are {len(groups)}"
        )
    for index, (saved_group, group) in enumerate(zip(saved["param_groups"], groups, strict=True)):
        # A scheduler adds keys to the groups, and has done so on both sides.
        check_keys(saved_group, list(group), part=f"{part}: group {index}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len({frozenset(moments) for moments in saved["state"].values()}) > 1:
        raise CheckpointError(f"checkpoint incomplete: {part}: some parameters lack what others have")
    for index, moments in saved["state"].items():
        for name, moment in moments.items():
            # A step count has no dimension, and moments may be of another type than their parameter.
            if isinstance(moment, Tensor) and moment.dim() and index < len(parameters):
                _check_like(moment, parameters[index], part=f"{part}: {name} of parameter {index}", dtype=False)
    try:
        optimizer.load_state_dict(dict(saved))
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint does not fit: {part}: {error}") from error


def _load_optional(target: Any, state: Any, *, part: str) -> None:
    if (target is None) != (state is None):
        raise CheckpointError(f"checkpoint {'does not fit' if target is None else 'incomplete'}: {part} is missing")
    if target is not None:
        target.load_state_dict(check_keys(state, list(target.state_dict()), part=part))


def _progress(level: Level) -> dict[str, Any]:
    named = level.named_level_parameters()
    return {
        "count": level._count,
        "at_unroll_start": level._inner_loop_start,
        # A checkpoint may fall between two micro-batches of a step.
        "gradients": {name: parameter.grad for name, parameter in named.items() if parameter.grad is not None},
        "report": {field.name: getattr(level.report, field.name) for field in dataclasses.fields(level.report)},
        "skipped": level.skipped.state(),
    }


def _load_progress(level: Level, state: Any) -> None:
    part = f"{level.name}.progress"
    progress = check_keys(state, ("count", "at_unroll_start", "gradients", "report", "skipped"), part=part)
    gradients, named = progress["gradients"], level.named_level_parameters()
    unknown = sorted(set(gradients) - set(named))
    if unknown:
        raise CheckpointError(f"checkpoint does not fit: {part}: gradient of {unknown[0]} is left over")
    for name, parameter in named.items():
        parameter.grad = gradients[name].to(parameter.device) if name in gradients else None
    fields = [field.name for field in dataclasses.fields(LevelReport)]
    level.report = LevelReport(**to_device(check_keys(progress["report"], fields, part=part), level.device))
    level.skipped.load_state(progress["skipped"], part=part)
    level._count, level._inner_loop_start = progress["count"], progress["at_unroll_start"]


def _check_like(value: Any, parameter: Tensor, *, part: str, dtype: bool = True) -> None:
    if not isinstance(value, Tensor) or value.shape != parameter.shape or (dtype and value.dtype != parameter.dtype):
        saved = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        here = f"{parameter.dtype} {tuple(parameter.shape)}"
        raise CheckpointError(f"checkpoint does not fit: {part} is {saved}, here it is {here}")
