"""A ridge regression in the engine, whose hypergradient is known in closed form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from ridge import LowerLoss, Ridge, UpperLoss, Vector

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.problems import LowerProblem, UpperProblem

FEATURES = 20


class RidgeLower(LowerLoss, LowerProblem):
    pass


class RidgeUpper(UpperLoss, UpperProblem):
    pass


@pytest.fixture
def make_ridge() -> Callable[..., Ridge]:
    """Make a ridge problem; nothing of it has stepped yet."""

    def make(hypergradient: Any, *, learning_rate: float = 0.05, lower_config: Config | None = None) -> Ridge:
        torch.manual_seed(0)
        data = [(torch.randn(40, FEATURES).double(), torch.randn(40).double()) for _ in range(2)]
        below, above = Vector(torch.randn(FEATURES)), Vector(0.3 * torch.randn(FEATURES).double())
        config = lower_config or Config(unroll_steps=max(1, build_hypergradient(hypergradient).needs.steps))
        optimizer = torch.optim.SGD(below.parameters(), lr=learning_rate)
        lower = RidgeLower("lower", config, below, optimizer, None, data[:1])
        upper_optimizer = torch.optim.SGD(above.parameters(), lr=0.0)
        upper = RidgeUpper("upper", Config(), above, upper_optimizer, None, data[1:])
        engine = BilevelEngine(lower, upper, steps=4, hypergradient=hypergradient, device="cpu")
        return Ridge(engine, lower, upper, data[:1], data[1:])

    return make
