"""Which fields of Betty's ``Config`` our levels read, and which would be ignored without a word."""

from __future__ import annotations

import dataclasses

import torch
from betty.configs import Config

from bilora.errors import SettingsError

READ = ("unroll_steps", "gradient_accumulation", "gradient_clipping", "precision", "warmup_steps")
"""The fields of Betty's ``Config`` that our levels read."""

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Autocast dtype of each precision."""


def check_config(config: Config, *, level: str) -> None:
    """Refuse a Betty ``Config`` with values that are out of range or that nothing here would read.

    ``first_order=False`` on an upper level would silently remove its hypergradient, and ``type`` and the
    settings of Betty's own approximations are the engine's ``hypergradient`` here.

    Raises:
        SettingsError: With all the faults of the config.

    Example:
        >>> check_config(Config(unroll_steps=0), level="lower")
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: config of level 'lower': unroll_steps is 0; it must be at least 1
    """
    faults = [
        f"{field.name}={getattr(config, field.name)!r} is not read by this library "
        "(the approximation is set as the engine's hypergradient)"
        for field in dataclasses.fields(config)
        if field.name not in READ and getattr(config, field.name) != field.default
    ]
    for name, least in (("unroll_steps", 1), ("gradient_accumulation", 1), ("warmup_steps", 0)):
        if getattr(config, name) < least:
            faults.append(f"{name} is {getattr(config, name)}; it must be at least {least}")
    if not config.gradient_clipping >= 0:
        faults.append(f"gradient_clipping is {config.gradient_clipping}; it must be positive, or 0 for none")
    if config.precision not in PRECISIONS:
        faults.append(f"precision is {config.precision!r}; known: {', '.join(PRECISIONS)}")
    if faults:
        raise SettingsError(f"config of level {level!r}: " + "; ".join(faults))


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return the autocast dtype of a precision, None for float32.

    Example:
        >>> autocast_dtype("bf16")
        torch.bfloat16
    """
    return PRECISIONS[precision]
