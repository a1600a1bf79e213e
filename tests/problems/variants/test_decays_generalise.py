"""What learned decays find on a regression that overfits."""

from typing import Any

import torch
from betty.configs import Config
from torch import Tensor, nn

from bilora.engines.bilevel import BilevelEngine
from bilora.problems.variants.learned_decay import DecayedLower, DecayUpper, LearnedDecaySettings
from bilora.problems.variants.weight_decays import WeightDecays


class Regression(nn.Module):
    """Three features that the target depends on, and forty that it does not; forty rows fit it without an error."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.noise = nn.Parameter(torch.zeros(40, dtype=torch.float64))

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        features, others, targets = batch
        return (features @ self.signal + others @ self.noise - targets).square().mean()


class Lower(DecayedLower):
    def training_step(self, batch: Any) -> Tensor:
        return self.module.loss(batch)


class Upper(DecayUpper):
    def training_step(self, batch: Any) -> Tensor:
        return self.module.loss(batch)


def regression_rows(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with noise of variance 0.25, so that no model has a smaller loss than that."""
    sizes = (3, 40, 1)
    features, others, noise = (torch.randn(count, n, generator=generator, dtype=torch.float64) for n in sizes)
    weights = torch.tensor([2.0, -1.0, 1.5], dtype=torch.float64)
    return features, others, features @ weights + 0.5 * noise[:, 0]


def test_what_does_not_generalise_is_taken_away_and_what_does_is_left() -> None:
    """The decays alone, used in a fresh training, take a regression that overfits 29-fold to nearly the noise."""
    generator = torch.Generator().manual_seed(0)
    below, above, unseen = (regression_rows(count, generator) for count in (40, 20, 2000))

    def train(decays: WeightDecays, *, search: bool) -> float:
        model = Regression()
        lower, upper = Lower("lower", Config(unroll_steps=4), model), None
        lower.companion, lower.train_data_loader = decays, [below]
        lower.optimizer = torch.optim.AdamW(lower.optimizer_groups(), lr=0.02)
        if search:
            upper = Upper("upper", Config(), model, extra_config=LearnedDecaySettings())
            upper.companion, upper.train_data_loader = decays, [above]
            upper.optimizer = torch.optim.AdamW(upper.optimizer_groups())
        BilevelEngine(lower, upper, steps=200, hypergradient="first_order", device="cpu").run()
        return model.loss(unseen).item()

    names = ["signal", "noise"]
    decays = WeightDecays(names, start=0.1, cap=50.0)
    train(decays, search=True)
    signal, noise = decays.values()
    assert (signal < 1e-3, noise > 40) == (True, True)
    assert train(decays, search=False) < 0.32
    assert train(WeightDecays(names, start=1e-9, cap=50.0), search=False) > 5
