"""The state of a level: everything that its next step depends on, as parts that a checkpoint can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Rates:
    """What the settings say of a level's optimizer.

    Attributes:
        groups: Learning rate and weight decay, by param group.
        base: Peak learning rate, by param group.
    """

    groups: tuple[dict[str, Any], ...]
    base: tuple[float, ...]


def own_rates(level: Level) -> Rates:
    """Return the rates of a level that has not stepped.

    Raises:
        CheckpointError: Its scheduler is none whose rate follows from the number of steps alone.
    """
    scheduler = level.learning_rate_scheduler
    if not isinstance(scheduler, LambdaLR):
        raise CheckpointError(
            f"the settings of level {level.name!r} cannot change within a run: its scheduler is a "
            f"{type(scheduler).__name__}, whose rate depends on more than the number of steps"
        )
    groups = tuple({name: group[name] for name in GROUP if name in group} for group in level.optimizer.param_groups)
    return Rates(groups, tuple(float(each) for each in scheduler.base_lrs))


def put_rates(level: Level, rates: Rates) -> None:
    """Set the rates, at the step of the schedule where the level now is."""
    scheduler = level.learning_rate_scheduler
    for group, own in zip(level.optimizer.param_groups, rates.groups, strict=True):
        group.update(own)
    scheduler.base_lrs = list(rates.base)
    rows = zip(level.optimizer.param_groups, scheduler.lr_lambdas, rates.base, strict=True)
    for group, factor, base in rows:
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in level.optimizer.param_groups]


PARTS = ("parameters", "optimizer", "scheduler", "scaler", "progress", "loaders", "extra")
"""Parts of the state of every level; a lower one has ``recorded`` as well."""


def level_state(level: Level) -> dict[str, Any]:
    """Return the state of a level, by part.

    ``parameters`` by name, ``optimizer``, ``scheduler`` and ``scaler`` as their ``state_dict`` has them (None
    where there is none), ``progress`` (counter, phase of the unroll, gradients accumulated so far, last report,
    steps skipped),
    ``loaders`` (epoch and position of each), ``extra`` (:meth:`Level.extra_state`), and of a lower level
    ``recorded``: the steps that the next upper step will come back to.
    """
    scheduler, scaler = level.learning_rate_scheduler, level.scaler
    state = {
        "parameters": {name: each.detach() for name, each in level.named_level_parameters().items()},
        "optimizer": level.optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "progress": _progress(level),
        "loaders": level.loaders_state(),
        "extra": level.extra_state(),
    }
    return state | ({"recorded": recorded_state(level)} if isinstance(level, LowerProblem) else {})


def load_level_state(level: Level, state: Any, *, keep_rates: bool = False) -> None:
    """Give a level that was built from the same settings the state of another one.

    Args:
        level: The level.
        state: What :func:`level_state` returned.
        keep_rates: Whether base learning rates and weight decay stay those of the level as it was built.

    Raises:
        CheckpointError: A part is missing, left over, or does not fit; it is named.
    """
    expected = (*PARTS, "recorded") if isinstance(level, LowerProblem) else PARTS
    found = check_keys(state, expected, part=f"level {level.name}")
    load_parameters(level.named_level_parameters(), found["parameters"], part=f"{level.name}.parameters")
    rates = own_rates(level) if keep_rates else None
    _load_optimizer(level.optimizer, found["optimizer"], part=f"{level.name}.optimizer")
    for name, own in (("scheduler", level.learning_rate_scheduler), ("scaler", level.scaler)):
        _load_optional(own, found[name], part=f"{level.name}.{name}")
    if rates is not None:
        put_rates(level, rates)
    _load_progress(level, found["progress"])
    level.load_loaders_state(found["loaders"])
    _load_extra(level, found["extra"])
    if isinstance(level, LowerProblem):
        load_recorded(level, found["recorded"])


def load_parameters(parameters: Mapping[str, nn.Parameter], values: Any, *, part: str) -> None:
    """Copy values into parameters of the same names and shapes.

    Raises:
        CheckpointError: A name is missing or left over, or a shape or type differs.
    """
    found = check_keys(values, list(parameters), part=part)
    for name, parameter in parameters.items():
        _check_like(found[name], parameter, part=f"{part}: {name}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[name])


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Any, *, part: str) -> None:
    found = check_keys(state, ("state", "param_groups"), part=part)
    own = optimizer.state_dict()
    if len(found["param_groups"]) != len(own["param_groups"]):
        raise CheckpointError(
            f"checkpoint does not fit: {part} has {len(found['param_groups'])} groups, here there are "
            f"{len(own['param_groups'])}"
        )
    for index, (saved, group) in enumerate(zip(found["param_groups"], own["param_groups"], strict=True)):
        # A scheduler adds keys of its own to the groups, and has done so on both sides.
        check_keys(saved, list(group), part=f"{part}: group {index}")
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    kinds = {frozenset(each) for each in found["state"].values()}
    if len(kinds) > 1:
        raise CheckpointError(f"checkpoint incomplete: {part}: some parameters lack what others have")
    for index, held in found["state"].items():
        for name, each in held.items():
            if isinstance(each, Tensor) and each.dim() and index < len(parameters):
                _check_like(each, parameters[index], part=f"{part}: {name} of parameter {index}", dtype=False)
    try:
        optimizer.load_state_dict(dict(found))
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint does not fit: {part}: {error}") from error


def _load_optional(own: Any, state: Any, *, part: str) -> None:
    if (own is None) != (state is None):
        raise CheckpointError(f"checkpoint {'does not fit' if own is None else 'incomplete'}: {part} is missing")
    if own is not None:
        own.load_state_dict(check_keys(state, list(own.state_dict()), part=part))


def _load_extra(level: Level, state: Any) -> None:
    check_keys(state, list(level.extra_state()), part=f"{level.name}.extra")
    level.load_extra_state(state)


def _progress(level: Level) -> dict[str, Any]:
    named = level.named_level_parameters()
    report = {field.name: getattr(level.report, field.name) for field in dataclasses.fields(level.report)}
    return {
        "count": level._count,
        "at_unroll_start": level._inner_loop_start,
        "gradients": {name: each.grad for name, each in named.items() if each.grad is not None},
        "report": report,
        "skipped": level.skipped.state(),
    }


def _load_progress(level: Level, state: Any) -> None:
    part = f"{level.name}.progress"
    found = check_keys(state, ("count", "at_unroll_start", "gradients", "report", "skipped"), part=part)
    named = level.named_level_parameters()
    unknown = sorted(set(found["gradients"]) - set(named))
    if unknown:
        raise CheckpointError(f"checkpoint does not fit: {part}: gradient of {unknown[0]} is left over")
    for name, parameter in named.items():
        parameter.grad = None
        if name in found["gradients"]:
            parameter.grad = found["gradients"][name].to(parameter.device)
    fields = [field.name for field in dataclasses.fields(LevelReport)]
    level.report = LevelReport(**to_device(check_keys(found["report"], fields, part=part), level.device))
    level.skipped.load_state(found["skipped"], part=part)
    level._count, level._inner_loop_start = found["count"], found["at_unroll_start"]


def _check_like(value: Any, parameter: Tensor, *, part: str, dtype: bool = True) -> None:
    if not isinstance(value, Tensor) or value.shape != parameter.shape or (dtype and value.dtype != parameter.dtype):
        said = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        here = f"{parameter.dtype} {tuple(parameter.shape)}"
        raise CheckpointError(f"checkpoint does not fit: {part} is {said}, here it is {here}")
