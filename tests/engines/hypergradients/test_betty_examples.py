"""A problem that Betty publishes as an example, written anew: logistic regression whose regularisation is learnt.

It is held against scipy's search over exact lower solutions, with differences for gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from betty.configs import Config
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional

from bilora.engines.bilevel import BilevelEngine
from bilora.problems import LowerProblem, UpperProblem

Array = NDArray[np.float64]


class Parameters(nn.Module):
    """One float64 tensor as a module."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.clone().double())


INFORMATIVE, NOISE = 3, 7
ROWS = 40


@dataclass
class LogisticData:
    """Rows whose first features decide the label; few to train on, many to choose the regularisation on."""

    inputs: Array
    labels: Array
    upper_inputs: Array
    upper_labels: Array

    @classmethod
    def draw(cls, seed: int) -> LogisticData:
        random = np.random.default_rng(seed)
        inputs = random.normal(size=(1000 + ROWS, INFORMATIVE + NOISE))
        labels = (random.random(1000 + ROWS) < expit(2.0 * inputs[:, :INFORMATIVE].sum(axis=1))).astype(float)
        return cls(inputs[:ROWS], labels[:ROWS], inputs[ROWS:], labels[ROWS:])

    def solution(self, raw: Array) -> Array:
        """Return the lower optimum by Newton's method."""
        penalty, weights = expit(raw), np.zeros(len(raw))
        for _ in range(50):
            answer = expit(self.inputs @ weights)
            gradient = self.inputs.T @ (answer - self.labels) / ROWS + 2 * penalty * weights
            curvature = self.inputs.T @ ((answer * (1 - answer))[:, None] * self.inputs) / ROWS
            move = np.linalg.solve(curvature + 2 * np.diag(penalty), gradient)
            weights = weights - move
            if np.abs(move).max() < 1e-12:
                return weights
        raise AssertionError("Newton's method did not converge")

    def upper_loss(self, raw: Array) -> float:
        """Return L2 at the lower optimum."""
        logits = self.upper_inputs @ self.solution(raw)
        loss = np.logaddexp(0.0, logits) - self.upper_labels * logits
        return float(loss.mean())


class LogisticLower(LowerProblem):
    """Cross entropy on few rows plus ``sum(sigmoid(E) V^2)``."""

    def training_step(self, batch: Any) -> Tensor:
        inputs, labels = batch
        weights = self.module.value
        loss = functional.binary_cross_entropy_with_logits(inputs @ weights, labels)
        return loss + (self.upper.module.value.sigmoid() * weights**2).sum()


class LogisticUpper(UpperProblem):
    """Cross entropy on other rows."""

    def training_step(self, batch: Any) -> Tensor:
        inputs, labels = batch
        return functional.binary_cross_entropy_with_logits(inputs @ self.lower.module.value, labels)


START = -3.0
"""E at the start, of every feature."""
UPPER_STEPS = 80


@pytest.fixture(scope="module")
def logistic() -> LogisticData:
    return LogisticData.draw(seed=0)


@pytest.fixture(scope="module")
def best(logistic: LogisticData) -> Any:
    """What scipy finds with exact lower solutions and differences for gradients."""
    return minimize(logistic.upper_loss, np.full(INFORMATIVE + NOISE, START), method="L-BFGS-B")


def learn_regularisation(data: LogisticData, hypergradient: Any, *, adam: bool = False) -> Array:
    """Return E after a run of the engine."""
    features = INFORMATIVE + NOISE
    below, above = Parameters(torch.zeros(features)), Parameters(torch.full((features,), START))
    optimizer: torch.optim.Optimizer = torch.optim.SGD(below.parameters(), lr=0.4)
    if adam:
        optimizer = torch.optim.AdamW(below.parameters(), lr=0.03, weight_decay=0.0)
    batches = [
        tuple(torch.from_numpy(each) for each in pair)
        for pair in ((data.inputs, data.labels), (data.upper_inputs, data.upper_labels))
    ]
    lower = LogisticLower("lower", Config(unroll_steps=3), below, optimizer, None, batches[:1])
    upper_optimizer = torch.optim.Adam(above.parameters(), lr=0.2)
    schedule = torch.optim.lr_scheduler.LinearLR(upper_optimizer, 1.0, 0.01, total_iters=UPPER_STEPS)
    upper = LogisticUpper("upper", Config(), above, upper_optimizer, schedule, batches[1:])
    BilevelEngine(lower, upper, steps=3 * UPPER_STEPS, hypergradient=hypergradient, device="cpu").run()
    found: Array = above.value.detach().numpy()
    return found


LOGISTIC: dict[str, dict[str, Any]] = {
    "darts": {"finite_difference": "central"},
    "darts, forward": {"name": "darts", "finite_difference": "forward"},
    "neumann": {"terms": 5},
    "conjugate_gradient": {"iterations": 10, "products": "exact"},
    "nystrom": {"rank": 10, "damping": 1e-4, "products": "exact"},
    "adaptive": {},
    "unrolled": {"steps": 3},
}
"""Approximations by row name, which is the approximation's where the settings name none."""


@pytest.fixture(scope="module")
def uniform(logistic: LogisticData) -> float:
    """The upper loss of the best regularisation that is the same for every feature, by a dense search."""
    return min(logistic.upper_loss(np.full(INFORMATIVE + NOISE, each)) for each in np.linspace(-8.0, 4.0, 121))


@pytest.mark.parametrize("row", LOGISTIC)
def test_learnt_regularisation_comes_close_to_the_best_there_is(
    logistic: LogisticData, best: Any, uniform: float, row: str
) -> None:
    found = learn_regularisation(logistic, {"name": row, **LOGISTIC[row]}, adam=row == "adaptive")
    gained = (uniform - logistic.upper_loss(found)) / (uniform - best.fun)
    # Those that solve for H^-1 v fully come closest; the others are on the way in the same number of steps.
    assert gained >= (0.95 if row in ("conjugate_gradient", "nystrom") else 0.8)
    assert found[INFORMATIVE:].mean() - found[:INFORMATIVE].mean() >= 4.0


def test_without_the_implicit_term_nothing_is_learnt(logistic: LogisticData) -> None:
    assert (learn_regularisation(logistic, "first_order") == START).all()
