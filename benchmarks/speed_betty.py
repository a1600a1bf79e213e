"""Stock Betty on a BILORA adapter, with the least that it needs to run at all."""

import logging
from typing import Any

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.logging import get_logger
from betty.problems import ImplicitProblem
from peft import PeftModel
from speed_bench import RATE, Bench, Clock, settings_of
from torch import Tensor, nn

from bilora import level_parameters, orthogonality_penalty
from bilora.problems.catalog import find_variant


def stock_betty(bench: Bench, clock: Clock, *, unroll_steps: int) -> None:
    """Train a BILORA adapter with Betty's own engine, levels and ``darts``."""
    get_logger().setLevel(logging.WARNING)
    model = bench.adapted("bilora")
    levels = level_parameters(model)
    below = _stock_level("lower", bench, model, levels.lower, Config(type="darts", unroll_steps=unroll_steps))
    # Betty differentiates the same graph twice, for the direct gradient and for v.
    above = _stock_level("upper", bench, model, levels.upper, Config(retain_graph=True))
    _StockEngine(bench, clock, below, above).run()
    model.zero_grad()
    model.train()


def _stock_level(
    name: str, bench: Bench, model: PeftModel, parameters: dict[str, nn.Parameter], config: Config
) -> ImplicitProblem:
    kind = _StockLower if name == "lower" else _StockUpper
    # Adam: Betty builds the optimizer anew from its defaults, which AdamW's constructor refuses since torch 2.7.
    optimizer = torch.optim.Adam(list(parameters.values()), lr=RATE)
    level = kind(name, config, model, optimizer, None, bench.batches, settings_of(find_variant("bilora")))
    level.bench, level.level_parameters = bench, list(parameters.values())
    return level


class _StockLevel(ImplicitProblem):  # type: ignore[misc]  # Betty carries no types
    """The least that Betty needs to train an adapter: without the filter it trains the frozen base as well."""

    bench: Bench
    level_parameters: list[nn.Parameter]

    def trainable_parameters(self) -> list[nn.Parameter]:
        return self.level_parameters

    def parameters(self) -> list[nn.Parameter]:
        return self.level_parameters

    def training_step(self, batch: Any) -> Tensor:
        # Betty's own bf16 does nothing on a CPU.
        with self.bench.autocast():
            loss: Tensor = self.module(**batch).loss + self.penalty()
        return loss

    def penalty(self) -> Tensor | float:
        return 0.0


class _StockLower(_StockLevel):
    def penalty(self) -> Tensor:
        weight: float = self.cfg.orthogonality
        return weight * orthogonality_penalty(self.module)


class _StockUpper(_StockLevel):
    """The task loss alone."""


class _StockEngine(Engine):  # type: ignore[misc]  # Betty carries no types
    def __init__(self, bench: Bench, clock: Clock, lower: ImplicitProblem, upper: ImplicitProblem) -> None:
        self.chosen_device, self.clock = bench.device, clock
        config = EngineConfig(train_iters=clock.total, valid_step=clock.total + 1)
        super().__init__([lower, upper], config, {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}})

    def configure_systems(self) -> dict[str, Any]:
        systems: dict[str, Any] = super().configure_systems()
        self.device = self.chosen_device
        return systems

    def train_step(self) -> None:
        super().train_step()
        self.clock.tick()
