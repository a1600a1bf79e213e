"""The learning rates of a level that goes on with others than it began with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from bilora.errors import CheckpointError
from bilora.problems.levels.level import Level

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
