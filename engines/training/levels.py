"""From a stage and settings to the levels: problem, optimizer, schedule and data put together."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from betty.configs import Config
from peft import PeftModel
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from bilora.data.groups import Groups
from bilora.data.loaders import Collate
from bilora.data.split import Split
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.split_loaders import SplitLoaders, level_loader
from bilora.errors import SettingsError
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.levels.level import Level
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.stage import Stage
from bilora.processes.processes import ONE_PROCESS, Processes

AnyLevel = TypeVar("AnyLevel", bound=Level)

# Makes the optimizer of the lower, or only, level of a stage, in place of AdamW.
LowerOptimizer = Callable[[Level], torch.optim.Optimizer]


@dataclass(frozen=True)
class Levels:
    """The levels of a stage, and the splits of the data that they train on."""

    lower: LowerProblem
    upper: UpperProblem | None
    loaders: SplitLoaders | None
    # Batches of D2, in a fixed order, for a stage that watches them.
    held_out: Iterable[Any] | None = None

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
    groups: Groups | None = None,
    lower_optimizer: LowerOptimizer | None = None,
) -> Levels:
    """Return the levels of ``stage`` over ``model``, with their optimizers, schedules and rows."""

    def build(kind: type[AnyLevel], name: str, config: Config, options: LevelSettings, steps: int) -> AnyLevel:
        level = kind(name, config=config, module=model, extra_config=variant_settings)
        # Before the optimizer, whose groups may take their weight decays from it.
        level.companion = companion
        assert options.learning_rate is not None  # FitSettings has put the level's own in
        if lower_optimizer is not None and name == "lower":
            level.optimizer = lower_optimizer(level)
        else:
            # Fused: one call per step for all the small tensors of an adapter, on CPU, CUDA and MPS alike.
            level.optimizer = torch.optim.AdamW(
                level.optimizer_groups(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
            )
        # What transformers calls constant has no warm-up.
        schedule = "constant_with_warmup" if options.schedule == "constant" else options.schedule
        level.scheduler = get_scheduler(schedule, level.optimizer, math.ceil(options.warmup * steps), steps)
        return level

    if stage.rate is not None:
        settings = _going_on(settings, stage.rate)
    loaders = None
    if stage.splits:
        loaders = SplitLoaders(
            rows,
            settings,
            collate=collate,
            processes=processes,
            split=split,
            groups=groups,
            small_upper=stage.small_upper,
        )
    steps = stage_steps(stage, settings)
    if stage.upper is None:
        options = settings.upper if stage.rows == "upper" else settings.lower
        single = build(stage.lower, "lower", _config(settings, options), options, steps)
        if loaders is None:
            single.train_data_loader = level_loader(rows, settings, collate=collate, processes=processes)
            return Levels(single, None, None)
        single.train_data_loader = loaders.upper if stage.rows == "upper" else loaders.lower
        return Levels(single, None, loaders, None if stage.watch is None else loaders.held_out())
    assert loaders is not None  # a stage with an upper level splits the rows
    below, above = _config(settings, settings.lower), _config(settings, settings.upper)
    below.unroll_steps = settings.unroll_steps
    # Betty counts warm-up in micro-batches.
    below.warmup_steps = settings.warmup_steps * settings.lower.accumulation
    lower = build(stage.lower, "lower", below, settings.lower, steps)
    upper = build(stage.upper, "upper", above, settings.upper, upper_step_count(settings))
    upper.scheduler = _moving_at_once(upper.scheduler)
    lower.train_data_loader, upper.train_data_loader = loaders.lower, loaders.upper
    loaders.follow(lower, upper)
    return Levels(lower, upper, loaders)


def stage_steps(stage: Stage, settings: FitSettings) -> int:
    """Return how many optimizer steps the lower, or only, level of a stage makes."""
    if stage.steps is not None:
        return stage.steps
    if stage.rows != "upper" or stage.rate is not None:
        return max(1, round(stage.share * settings.lower_steps))
    steps = upper_step_count(settings)
    if steps == 0:
        raise SettingsError(
            f"stage {stage.name!r} makes the steps of an upper level, and with steps={settings.steps}, unroll_steps="
            f"{settings.unroll_steps} and warmup_steps={settings.warmup_steps} there are none; raise steps"
        )
    return steps


def _going_on(settings: FitSettings, rate: float) -> FitSettings:
    """Return the settings with those of the lower level for D2 too, at a share of its learning rate."""
    assert settings.lower.learning_rate is not None  # FitSettings has put the level's own in
    slower = dataclasses.replace(settings.lower, learning_rate=rate * settings.lower.learning_rate)
    return dataclasses.replace(settings, upper=slower)


def upper_step_count(settings: FitSettings) -> int:
    """Return how many optimizer steps the upper level makes in a run."""
    # Betty starts an upper pass after each whole unroll, and passes those over that end within the warm-up.
    in_warmup = settings.warmup_steps // settings.unroll_steps
    return max(0, settings.lower_steps // settings.unroll_steps - in_warmup)


def _moving_at_once(scheduler: Any) -> Any:
    """Return a schedule whose first step has the rate of the second where it would have none."""
    # A warm-up starts at a rate of zero, and of the few steps of an upper level none should be lost.
    if not isinstance(scheduler, LambdaLR):
        return scheduler

    def moving(factor: Callable[[int], float]) -> Callable[[int], float]:
        # Of one step alone, the warm-up is all there is.
        return lambda step: factor(step) if step else factor(0) or factor(1) or 1.0

    return LambdaLR(scheduler.optimizer, [moving(factor) for factor in scheduler.lr_lambdas])


def _config(settings: FitSettings, options: LevelSettings) -> Config:
    return Config(
        gradient_accumulation=options.accumulation,
        gradient_clipping=options.gradient_clipping,
        precision=settings.precision,
    )
