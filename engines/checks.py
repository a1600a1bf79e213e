"""Checks before a run: schedules that cannot work, levels that overlap, and processes that differ."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

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
    # Betty counts the warm-up in micro-batches.
    warmup = lower.config.warmup_steps // lower.gas
    check_upper_steps(steps, unroll=lower.config.unroll_steps, warmup=warmup, looks_back=lower.needs.steps)


def check_upper_steps(steps: int, *, unroll: int, warmup: int, looks_back: int) -> None:
    """Refuse lower steps that end before the first upper one, or an unroll shorter than the hypergradient looks back.

    All are lower optimizer steps.
    """
    if looks_back > unroll:
        raise SettingsError(
            f"the hypergradient looks {looks_back} lower steps back, but unroll_steps is {unroll}: before "
            "that the upper level had other values; raise unroll_steps, or let it look back less far"
        )
    # An upper step at every multiple of unroll_steps after the warm-up.
    first = (warmup // unroll + 1) * unroll
    if steps < first:
        raise SettingsError(
            f"steps is {steps}, but with unroll_steps={unroll} and warmup_steps={warmup} the upper level steps for the "
            f"first time at step {first}: it would never be trained; raise steps or lower unroll_steps"
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


def check_quantised(levels: Sequence[Level]) -> None:
    """Refuse a quantised base that cannot be trained through: by DoRA, whole modules, or for lack of a gradient."""
    # The model is the same object in most levels.
    modules = {id(level.module): level.module for level in levels}
    for name, layer in (named for module in modules.values() for named in module.named_modules()):
        if isinstance(layer, LoraLayer) and layer.lora_magnitude_vector:
            weight: Any = layer.get_base_layer().weight
            # PEFT puts the weight back on the CPU after each reading, and the next pass finds no scales beside it.
            if type(weight).__name__ == "Int8Params" and weight.device.type == "cpu":
                raise SettingsError(
                    f"layer {name!r} has DoRA on a weight in 8 bits of bitsandbytes on the CPU, which breaks as PEFT "
                    "reads it; load the base model unquantised, in 4 bits, or with torchao's Int8WeightOnlyConfig, or "
                    "choose method 'lora' or 'bilora'"
                )
        elif isinstance(layer, ModulesToSaveWrapper):
            # By the original: PEFT's copy is changed already.
            parts = list(layer.original_module.modules())
            weights = list(layer.original_module.parameters())
            if any(map(_of_quantiser, [*parts, *weights])):
                raise SettingsError(
                    f"module {name!r} is quantised and is to be trained whole; name it in the llm_int8_skip_modules of "
                    "BitsAndBytesConfig, or the modules_to_not_convert of TorchAoConfig, as the base model is quantised"
                )
        elif isinstance(layer, nn.Linear) and type(layer.weight).__module__.startswith("torchao"):
            _check_gradient_passes(layer, name)


def _of_quantiser(part: nn.Module | Tensor) -> bool:
    # By their names, so that they need not be installed: layers of bitsandbytes, and weights of torchao.
    return type(part).__module__.startswith(("bitsandbytes", "torchao"))


def _check_gradient_passes(layer: nn.Linear, name: str) -> None:
    # Asked by one row: which of torchao's configs have a gradient changes with its versions.
    row = torch.ones(1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device, requires_grad=True)
    out = layer(row).sum()
    if not out.requires_grad or torch.autograd.grad(out, row, allow_unused=True)[0] is None:
        raise SettingsError(
            f"layer {name!r} is quantised by torchao such that no gradient passes it: what is trained before it would "
            "stay as it is; quantise the weights alone, as Int8WeightOnlyConfig does, or load the base model "
            "unquantised"
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
