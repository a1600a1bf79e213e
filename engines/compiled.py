"""A model compiled by torch.compile for the length of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

from peft import PeftModel
from torch import nn

from bilora.problems.levels.level import Level

CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune"]

COMPILE_MODES: tuple[CompileMode, ...] = get_args(CompileMode)

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes in which the next run overwrites what the last one gave."""


@contextmanager
def compiled(
    model: nn.Module,
    mode: CompileMode,
    *,
    levels: Sequence[Level] = (),
    backend: str | Callable[..., Any] = "inductor",
) -> Iterator[None]:
    """Run the block with the base model compiled in place; afterwards it is as it was.

    Both levels and the displaced passes of finite differences call the same model with the same shapes, so they share
    one graph. Second derivatives are not to be had of it: products ``exact`` and the meter need ``off``.

    Args:
        model: The model; of one with PEFT's adapters the base model is compiled, with the adapters in it.
        mode: torch.compile's, or ``off``.
        levels: The levels that train it; with CUDA graphs they copy what they keep from one pass to the next.
        backend: torch.compile's.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> with compiled(model, "off"):
        ...     model._compiled_call_impl is None
        True
    """
    if mode == "off":
        yield
        return
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    before = base._compiled_call_impl
    # Other backends than inductor know no modes, and refuse even the name of the default.
    base.compile(backend=backend, mode=mode if backend == "inductor" and mode != "default" else None)
    for level in levels:
        level.copies_outputs = mode in CUDA_GRAPHS
    try:
        yield
    finally:
        base._compiled_call_impl = before
        for level in levels:
            level.copies_outputs = False
