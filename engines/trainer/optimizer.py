"""The optimizer that a subclass of the trainer makes, as that of the lower level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim import Optimizer
from transformers import Trainer

from bilora.errors import SettingsError
from bilora.problems.levels.level import Level
from bilora.problems.variant import Variant
from bilora.problems.variants.learned_decay import DecayedLower

if TYPE_CHECKING:
    from bilora.engines.trainer.trainer import BilevelTrainer


def makes_optimizer(kind: type[Trainer]) -> bool:
    """Return whether a subclass makes an optimizer of its own."""
    return kind.create_optimizer is not Trainer.create_optimizer


def refuse_optimizer(kind: type[Trainer], variant: Variant) -> None:
    """Refuse an optimizer of the user's own for a method that is made for AdamW."""
    if makes_optimizer(kind) and issubclass(variant.lower, DecayedLower):
        raise SettingsError(
            f"{kind.__name__} overrides create_optimizer, and method {variant.name!r} learns the weight decays of an "
            "AdamW of its own; give variant='bilora' for one that takes yours"
        )


def own_optimizer(trainer: BilevelTrainer, level: Level) -> Optimizer:
    """Return what ``create_optimizer`` makes of the parameters of a level; the other ones are not for it."""
    lower = {id(parameter) for parameter in level.trainable_parameters()}
    others = [value for value in trainer.model.parameters() if value.requires_grad and id(value) not in lower]
    trainer.optimizer = None  # else Trainer's own method would return that of the stage before
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        optimizer: Optimizer | None = trainer.create_optimizer() or trainer.optimizer
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
    if optimizer is None:
        raise SettingsError(f"create_optimizer of {type(trainer).__name__} made no optimizer")
    # Of code that gives every parameter of the model to its optimizer.
    groups = [{**group, "params": [p for p in group["params"] if id(p) in lower]} for group in optimizer.param_groups]
    optimizer.param_groups = [group for group in groups if group["params"]]
    return optimizer
