"""A problem that Betty publishes as an example, written anew: training on noisy labels with a learnt weight a row.

It is held against what the learner does not see: which rows were corrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn
from torch.nn import functional

from bilora.engines.bilevel import BilevelEngine
from bilora.problems import LowerProblem, UpperProblem

NOISY_ROWS, CLEAN_ROWS, SHARE_CORRUPTED = 80, 40, 0.4
UPPER_STEPS = 80


@dataclass
class NoisyData:
    """Rows of two clouds; of those to train on, some have the other cloud's label."""

    inputs: Tensor
    labels: Tensor
    corrupted: Tensor
    clean_inputs: Tensor
    clean_labels: Tensor

    @classmethod
    def draw(cls, seed: int) -> NoisyData:
        generator = torch.Generator().manual_seed(seed)
        rows = NOISY_ROWS + CLEAN_ROWS
        truth = torch.randint(0, 2, (rows,), generator=generator).double()
        inputs = torch.randn(rows, 5, generator=generator, dtype=torch.float64) + (2 * truth - 1)[:, None]
        corrupted = torch.rand(NOISY_ROWS, generator=generator) < SHARE_CORRUPTED
        labels = torch.where(corrupted, 1 - truth[:NOISY_ROWS], truth[:NOISY_ROWS])
        return cls(inputs[:NOISY_ROWS], labels, corrupted, inputs[NOISY_ROWS:], truth[NOISY_ROWS:])

    def batches(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the noisy rows in batches, with their numbers.

        An odd number of batches, so that in turn each one is the last before an upper step.
        """
        numbers = torch.arange(NOISY_ROWS)
        return list(zip(numbers.split(16), self.inputs.split(16), self.labels.split(16), strict=True))


class RowWeights(nn.Module):
    """A weight in (0, 1) a row."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(NOISY_ROWS, dtype=torch.float64))

    def forward(self, rows: Tensor, losses: Tensor) -> Tensor:
        return self.value[rows].sigmoid()


class WeightNet(nn.Module):
    """A weight in (0, 1) from a row's loss, by a small network (Meta-Weight-Net, arXiv 1902.07379)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()

    def forward(self, rows: Tensor, losses: Tensor) -> Tensor:
        return self.network(losses.detach()[:, None]).squeeze(-1).sigmoid()


class WeightedLower(LowerProblem):
    """Cross entropy on the noisy rows, each with its weight."""

    def training_step(self, batch: Any) -> Tensor:
        rows, inputs, labels = batch
        losses = self.losses(inputs, labels)
        return (self.upper.module(rows, losses) * losses).mean()

    def losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = self.module(inputs).squeeze(-1)
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


class CleanUpper(UpperProblem):
    """Cross entropy on the clean rows."""

    def training_step(self, batch: Any) -> Tensor:
        return self.lower.losses(*batch).mean()


def learn_weights(
    data: NoisyData, hypergradient: Any, weights: nn.Module, *, adam: bool = False, rate: float = 0.1
) -> Tensor:
    """Return the weights of the noisy rows after a run of the engine."""
    classifier = nn.Linear(5, 1).double()
    kind: Any = torch.optim.AdamW if adam else torch.optim.SGD
    optimizer = kind(classifier.parameters(), lr=0.05 if adam else 0.5, weight_decay=0.0)
    lower = WeightedLower("lower", Config(unroll_steps=2), classifier, optimizer, None, data.batches())
    clean = [(data.clean_inputs, data.clean_labels)]
    upper = CleanUpper("upper", Config(), weights, torch.optim.Adam(weights.parameters(), lr=rate), None, clean)
    BilevelEngine(lower, upper, steps=2 * UPPER_STEPS, hypergradient=hypergradient, device="cpu").run()
    with torch.no_grad():
        return weights(torch.arange(NOISY_ROWS), lower.losses(data.inputs, data.labels))


REWEIGHTING: dict[str, dict[str, Any]] = {
    "darts": {"finite_difference": "central"},
    "darts, forward": {"name": "darts", "finite_difference": "forward"},
    "darts, exact": {"name": "darts", "products": "exact"},
    "neumann": {"terms": 3},
    "conjugate_gradient": {"iterations": 3, "damping": 0.1},
    "nystrom": {"rank": 3, "damping": 0.1},
    "adaptive": {},
    "unrolled": {"steps": 2},
}
"""Approximations by row name, which is the approximation's where the settings name none."""


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("row", REWEIGHTING)
def test_clean_rows_get_more_weight_than_corrupted_ones(row: str, seed: int) -> None:
    data = NoisyData.draw(seed)
    torch.manual_seed(seed)
    found = learn_weights(data, {"name": row, **REWEIGHTING[row]}, RowWeights(), adam=row == "adaptive")
    assert (found[~data.corrupted].mean() - found[data.corrupted].mean()).item() >= 0.5
    assert 0.3 <= data.corrupted.double().mean().item() <= 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("row", ["darts", "adaptive", "unrolled"])
def test_a_weight_net_finds_the_corrupted_rows_by_their_losses(row: str, seed: int) -> None:
    data = NoisyData.draw(seed)
    torch.manual_seed(seed)
    # A finite difference would also move the loss that the net is shown, which is detached.
    settings = {"name": row, "products": "exact", **({"steps": 2} if row == "unrolled" else {})}
    found = learn_weights(data, settings, WeightNet(), adam=row == "adaptive", rate=0.03)
    assert (found[~data.corrupted].mean() - found[data.corrupted].mean()).item() >= 0.3
