"""Checks before a run: schedules that cannot work, levels that overlap, and processes that differ."""

import warnings
from collections.abc import Sequence
from typing import Any

from bilora.engines.hypergradients.darts import Darts
from bilora.errors import SettingsError
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.problems.levels.level import Level
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.processes.processes import Processes
from bilora.processes.sharded import check_equal_parameters


def check_schedule(
    lower: LowerProblem, upper: UpperProblem | None, steps: int, validate_every: int, *, least_steps: int = 1
) -> None:
    """Refuse a number of steps that is too small, or under which the upper level would never step."""
    if steps < least_steps:
        raise SettingsError(f"steps is {steps}; it counts lower optimizer steps and must be at least {least_steps}")
    if validate_every < 0:
        raise SettingsError(f"validate_every is {validate_every}; it must be positive, or 0 for the end only")
    if upper is None:
        return
    unroll = lower.config.unroll_steps
    if lower.needs.steps > unroll:
        raise SettingsError(
            f"the hypergradient looks {lower.needs.steps} lower steps back, but unroll_steps is {unroll}: before "
            "that the upper level had other values; raise unroll_steps, or let it look back less far"
        )
    # Betty counts the warm-up in micro-batches.
    warmup = lower.config.warmup_steps // lower.gas
    # An upper step at every multiple of unroll_steps after the warm-up.
    first = (warmup // unroll + 1) * unroll
    if steps < first:
        raise SettingsError(
            f"steps is {steps}, but with unroll_steps={unroll} and warmup_steps={lower.config.warmup_steps} the upper "
            f"level steps for the first time at step {first}: it would never be trained; raise steps or lower "
            "unroll_steps"
        )


def warn_of_scale(hypergradient: Hypergradient, processes: Processes) -> None:
    """Warn of ``darts`` with ``scale: one``, whose implicit term is too long."""
    if isinstance(hypergradient, Darts) and hypergradient.scale == "one" and processes.is_first:
        warnings.warn(
            "hypergradient darts has scale 'one': its implicit term is longer, by one over the lower learning rate, "
            "than what a lower step does (6 to 24 times the direct gradient in one run); choose 'learning_rate', the "
            "default",
            RuntimeWarning,
            stacklevel=3,
        )


def check_disjoint(lower: LowerProblem, upper: UpperProblem | None) -> None:
    """Refuse levels that share a parameter."""
    if upper is None:
        return
    above = {id(parameter) for parameter in upper.trainable_parameters()}
    shared = [name for name, parameter in lower.named_level_parameters().items() if id(parameter) in above]
    if shared:
        raise SettingsError(
            f"the two levels share {len(shared)} parameters, {', '.join(shared[:3])} among them; a parameter belongs "
            "to one level: override level_parameters()"
        )


def check_checkpointing(levels: Sequence[Level]) -> None:
    """Refuse gradient checkpointing of the reentrant kind, under which layers get no gradient and stay as they are."""
    # It runs a backward pass inside the backward pass, which knows nothing of the parameters that a level asks for.
    for module in {module for level in levels for module in level.module.modules()}:
        settings = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
        if getattr(module, "gradient_checkpointing", False) and settings.get("use_reentrant"):
            raise SettingsError(
                "the model has gradient checkpointing with use_reentrant=True, under which its layers would get no "
                "gradient here; call model.gradient_checkpointing_enable({'use_reentrant': False}), or set "
                "gradient_checkpointing_kwargs so"
            )


def check_equal_start(levels: Sequence[Level], processes: Processes) -> None:
    """Refuse processes whose models differ: their gradients would be averaged all the same."""
    if processes.count == 1:
        return
    # The model is the same object in most levels, and a checksum of all of it takes its time.
    modules = {id(level.module): level.module for level in levels}
    for module in modules.values():
        check_equal_parameters(module, processes)


def sample_of(rows: Sequence[Any], *, size: int = 100) -> tuple[int, list[str]]:
    """Return the number of rows, and about ``size`` of them at equal distances, to compare two lists of rows by.

    Example:
        >>> sample_of(["a", "b", "c", "d"], size=2)
        (4, ["'a'", "'c'"])
    """
    # Over their whole length: files that differ often begin alike.
    every = max(1, len(rows) // size)
    return len(rows), [repr(rows[index]) for index in range(0, len(rows), every)]
