"""From a stage and settings to the levels: problem, optimizer, schedule and data put together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from betty.configs import Config
from peft import PeftModel
from torch import nn
from transformers import get_scheduler

from bilora.data.loaders import Collate
from bilora.data.split import Split
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.split_loaders import SplitLoaders, whole_loader
from bilora.errors import SettingsError
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.levels.level import Level
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.stage import Stage
from bilora.processes.processes import ONE_PROCESS, Processes


def adamw(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """Return torch's fused AdamW: one call a step for all the small tensors of an adapter, on CPU, CUDA and MPS alike.

    Args:
        parameters: The level's parameters, or param groups of them.
        learning_rate: Learning rate of every group that has none of its own.
        weight_decay: Decoupled weight decay of every group that has none of its own.

    Example:
        >>> weight = nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> _ = adamw([weight], learning_rate=0.1).step()
        >>> round(weight.item(), 6)
        0.9
    """
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


AnyLevel = TypeVar("AnyLevel", bound=Level)


@dataclass(frozen=True)
class Levels:
    """The levels of a stage, and the splits of the data that they train on."""

    lower: LowerProblem
    upper: UpperProblem | None
    loaders: SplitLoaders | None
    held_out: Iterable[Any] | None = None
    """Batches of D2, in a fixed order, for a stage that watches them."""

    @property
    def both(self) -> tuple[Level, ...]:
        """The lower level, and the upper one where there is one."""
        return (self.lower,) if self.upper is None else (self.lower, self.upper)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits drawn so far; none for a stage on all the rows."""
        return () if self.loaders is None else tuple(self.loaders.splits)


def build_levels(
    model: PeftModel,
    rows: Sequence[Any],
    *,
    collate: Collate,
    stage: Stage,
    variant_settings: Any,
    settings: FitSettings,
    companion: Companion | None = None,
    processes: Processes = ONE_PROCESS,
    split: Split | None = None,
) -> Levels:
    """Return the levels of ``stage`` over ``model``, with their optimizers, schedules and rows.

    ``split`` is the first draw of D1 and D2, where it was drawn before.
    """

    def level(kind: type[AnyLevel], name: str, config: Config, own: LevelSettings, steps: int) -> AnyLevel:
        made = kind(name, config=config, module=model, extra_config=variant_settings)
        made.companion = companion
        return _with_optimizer(made, own, steps)

    loaders = SplitLoaders(rows, settings, collate=collate, processes=processes, split=split) if stage.splits else None
    steps = stage_steps(stage, settings)
    if stage.upper is None:
        own = settings.upper if stage.rows == "upper" else settings.lower
        single = level(stage.lower, "lower", _config(settings, own), own, steps)
        if loaders is None:
            single.train_data_loader = whole_loader(rows, settings, collate=collate, processes=processes)
            return Levels(single, None, None)
        single.train_data_loader = loaders.upper if stage.rows == "upper" else loaders.lower
        return Levels(single, None, loaders, None if stage.watch is None else loaders.held_out())
    assert loaders is not None  # a stage with an upper level splits the rows
    below, above = _config(settings, settings.lower), _config(settings, settings.upper)
    below.unroll_steps = settings.unroll_steps
    # Betty counts warm-up in micro-batches.
    below.warmup_steps = settings.warmup_steps * settings.lower.accumulation
    lower = level(stage.lower, "lower", below, settings.lower, steps)
    upper = level(stage.upper, "upper", above, settings.upper, upper_step_count(settings))
    lower.train_data_loader, upper.train_data_loader = loaders.lower, loaders.upper
    loaders.follow(lower, upper)
    return Levels(lower, upper, loaders)


def stage_steps(stage: Stage, settings: FitSettings) -> int:
    """Return how many optimizer steps the lower, or only, level of a stage makes.

    Raises:
        SettingsError: It would be none though the stage does not say so.

    Example:
        >>> stage_steps(Stage("values", LowerProblem, rows="upper"), FitSettings(steps=100, unroll_steps=4))
        25
    """
    if stage.steps is not None:
        return stage.steps
    if stage.rows != "upper":
        return settings.lower_steps
    steps = upper_step_count(settings)
    if steps == 0:
        raise SettingsError(
            f"stage {stage.name!r} makes the steps of an upper level, and with steps={settings.steps}, unroll_steps="
            f"{settings.unroll_steps} and warmup_steps={settings.warmup_steps} there are none; raise steps"
        )
    return steps


def upper_step_count(settings: FitSettings) -> int:
    """Return how many optimizer steps the upper level makes in a run.

    Example:
        >>> upper_step_count(FitSettings(steps=100, unroll_steps=4, warmup_steps=20))
        20
    """
    in_warmup = settings.warmup_steps // settings.unroll_steps
    return max(0, settings.lower_steps // settings.unroll_steps - in_warmup) // settings.upper.accumulation


def _with_optimizer(level: AnyLevel, own: LevelSettings, steps: int) -> AnyLevel:
    groups = level.optimizer_groups()
    assert own.learning_rate is not None  # FitSettings has put the level's own in
    level.optimizer = adamw(groups, learning_rate=own.learning_rate, weight_decay=own.weight_decay)
    # What transformers calls constant has no warm-up.
    schedule = "constant_with_warmup" if own.schedule == "constant" else own.schedule
    level.scheduler = get_scheduler(
        schedule, level.optimizer, num_warmup_steps=math.ceil(own.warmup * steps), num_training_steps=steps
    )
    return level


def _config(settings: FitSettings, own: LevelSettings) -> Config:
    return Config(
        gradient_accumulation=own.accumulation, gradient_clipping=own.gradient_clipping, precision=settings.precision
    )
