"""The hypergradient of weight decays against real lower steps, their way into the optimizer, and what they find."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn

from bilora.engines.bilevel import BilevelEngine
from bilora.problems import LowerProblem
from bilora.problems.variants.learned_decay import DecayedLower, DecayUpper, LearnedDecaySettings, decays_of
from bilora.problems.variants.weight_decays import WeightDecays

RATE = 0.02
NAMES = ["weight", "bias"]


class Small(nn.Module):
    """A matrix and a vector in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return ((inputs @ self.weight.T + self.bias).tanh() - targets).square().mean()


class Lower(DecayedLower):
    def training_step(self, batch: Any) -> Tensor:
        return self.module.loss(batch)


class Upper(DecayUpper):
    """Keeps its implicit term."""

    term: Tensor

    def training_step(self, batch: Any) -> Tensor:
        return self.module.loss(batch)

    def implicit_term(self, vector: Any, lower: LowerProblem) -> Any:
        (self.term,) = super().implicit_term(vector, lower)
        return (self.term,)


# Under ``rising`` no step has the optimizer's default rate.
rising = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.5 + 0.25 * step)
level_rate = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(6, size, generator=generator, dtype=torch.float64) for size in (3, 4))  # type: ignore[return-value]


def decays_at(log_decay: Tensor, *, cap: float = 50.0, shared: bool = False) -> WeightDecays:
    decays = WeightDecays(NAMES, start=0.1, cap=cap, groups=["all"] * len(NAMES) if shared else None).double()
    with torch.no_grad():
        decays.log_decay.copy_(log_decay)
    return decays


def run(
    optimizer: Callable[..., torch.optim.Optimizer],
    decays: WeightDecays,
    *,
    steps: int,
    warm: int = 0,
    schedule: Any = rising,
) -> tuple[Lower, Upper]:
    """Make ``warm`` windows of lower steps, and then one whose upper term is kept; the upper level stands still."""
    model = Small()
    lower = Lower("lower", Config(unroll_steps=steps), model)
    upper = Upper("upper", Config(), model, extra_config=LearnedDecaySettings())
    lower.companion = upper.companion = decays
    lower.optimizer = optimizer(lower.optimizer_groups())
    lower.scheduler = schedule(lower.optimizer)
    upper.optimizer = torch.optim.SGD(upper.trainable_parameters(), lr=0.0)
    lower.train_data_loader, upper.train_data_loader = [batch(seed) for seed in range(4)], [batch(9)]
    BilevelEngine(lower, upper, steps=steps * (warm + 1), hypergradient="first_order", device="cpu").run()
    return lower, upper


sgd = partial(torch.optim.SGD, lr=RATE)
adamw = partial(torch.optim.AdamW, lr=RATE)


def differences(
    optimizer: Any, log_decay: Tensor, *, steps: int, windows: int, size: float = 1e-5, schedule: Any = rising
) -> Tensor:
    """Central differences of the upper loss after real lower steps, of which the last ``windows`` see the change."""

    def upper_loss(changed: Tensor) -> float:
        decays = decays_at(log_decay)
        model = Small()
        lower = Lower("lower", Config(), model)
        lower.companion = decays
        lower.optimizer = optimizer(lower.optimizer_groups())
        scheduler = schedule(lower.optimizer)
        batches = [batch(seed) for seed in range(4)]
        for step in range(steps):
            if step == steps - windows:
                with torch.no_grad():
                    decays.log_decay.copy_(changed)
            for group, decay in zip(lower.optimizer.param_groups, decays.values(), strict=True):
                group["weight_decay"] = decay
            lower.optimizer.zero_grad()
            model.loss(batches[step % 4]).backward()
            lower.optimizer.step()
            scheduler.step()
        return model.loss(batch(9)).item()

    unit = torch.eye(len(log_decay), dtype=torch.float64) * size
    slopes = [(upper_loss(log_decay + step) - upper_loss(log_decay - step)) / (2 * size) for step in unit]
    return torch.tensor(slopes, dtype=torch.float64)


LOG_DECAY = torch.tensor([0.3, -1.2], dtype=torch.float64)


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_one_step_is_exact(optimizer: Any, warm: int) -> None:
    """To 1e-6 of the value, against differences of real steps; with AdamW's moments warm as well."""
    _, upper = run(optimizer, decays_at(LOG_DECAY), steps=1, warm=warm)
    expected = differences(optimizer, LOG_DECAY, steps=warm + 1, windows=1)
    assert expected.abs().min() > 1e-5
    torch.testing.assert_close(upper.term, expected, rtol=1e-6, atol=1e-12)


def test_one_decay_for_all_is_exact() -> None:
    _, upper = run(adamw, decays_at(torch.full((1,), 0.3), shared=True), steps=1)
    both = differences(adamw, torch.full((2,), 0.3).double(), steps=1, windows=1)
    torch.testing.assert_close(upper.term, both.sum(0, keepdim=True), rtol=1e-6, atol=1e-12)
    learned = decays_at(torch.zeros(1), shared=True).learned()
    assert learned == {"weight_decays": {"weight": 1.0, "bias": 1.0}}


def test_several_steps_are_k_times_the_last_one() -> None:
    """By hand from the recorded step: its parameters, its learning rate, and v at the parameters it arrived at."""
    _, upper = run(sgd, decays_at(LOG_DECAY), steps=4)
    lower, _ = run(sgd, decays_at(LOG_DECAY), steps=4)
    step = lower.recorded_step()
    assert step.parameters_before is not None
    v = torch.autograd.grad(lower.module.loss(batch(9)), lower.trainable_parameters())
    rate = RATE * (0.5 + 0.25 * 3)
    by_hand = [
        -4 * rate * decay * (a * b).sum().item()
        for decay, a, b in zip(LOG_DECAY.exp().tolist(), step.parameters_before, v, strict=True)
    ]
    torch.testing.assert_close(upper.term, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-9, atol=0)


def test_several_steps_are_nearly_right_at_a_small_rate() -> None:
    """Where a step moves little, what the k-fold term leaves out is of second order in the learning rate."""
    errors = []
    for rate in (1e-3, 5e-4):
        constant = partial(torch.optim.SGD, lr=rate)
        _, upper = run(constant, decays_at(LOG_DECAY), steps=4, schedule=level_rate)
        exact = differences(constant, LOG_DECAY, steps=4, windows=4, size=1e-4, schedule=level_rate)
        errors.append(((upper.term - exact).abs() / exact.abs()).max().item())
    assert errors[0] < 0.02
    assert errors[1] < 0.6 * errors[0]


def test_a_skipped_step_has_no_term() -> None:
    lower, upper = run(sgd, decays_at(LOG_DECAY), steps=1)
    step = lower.recorded_step()
    step.taken = False
    vector = tuple(torch.ones_like(parameter) for parameter in lower.trainable_parameters())
    (term,) = upper.implicit_term(vector, lower)
    assert torch.equal(term, torch.zeros_like(term))


def test_decays_reach_the_groups_before_a_step() -> None:
    lower, _ = run(adamw, decays_at(LOG_DECAY), steps=1)
    assert [group["weight_decay"] for group in lower.optimizer.param_groups] == LOG_DECAY.exp().tolist()


def test_a_cap_is_not_passed_and_can_be_left() -> None:
    decays = decays_at(torch.tensor([5.0, 0.0]), cap=2.0)
    assert decays.values() == [2.0, 1.0]
    upper = Upper("upper", Config(), Small(), extra_config=LearnedDecaySettings())
    upper.companion = decays
    upper.optimizer = torch.optim.SGD(upper.optimizer_groups(), lr=0.1)
    (decays.log_decay,) = upper.trainable_parameters()
    decays.log_decay.grad = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    upper.take_step()
    assert decays.log_decay.tolist()[0] == pytest.approx(math.log(2.0))
    decays.log_decay.grad = torch.tensor([1.0, 1.0], dtype=torch.float64)
    upper.take_step()
    assert decays.values()[0] < 2.0


def test_values_follow_every_way_of_changing_them() -> None:
    decays = WeightDecays(NAMES, start=1.0, cap=50.0)
    assert decays.values() == [1.0, 1.0]
    with torch.no_grad():
        decays.log_decay.add_(math.log(2.0))
    assert decays.values() == pytest.approx([2.0, 2.0])
    decays.load_state_dict({"log_decay": torch.zeros(2)})
    assert decays.values() == [1.0, 1.0]


def test_state_of_a_level_holds_the_decays() -> None:
    lower, _ = run(sgd, decays_at(LOG_DECAY), steps=1)
    state = lower.extra_state()
    other, _ = run(sgd, decays_at(torch.zeros(2)), steps=1)
    other.load_extra_state(state)
    assert decays_of(other).values() == LOG_DECAY.exp().tolist()


class Regression(nn.Module):
    """Three features that the target depends on, and forty that it does not; forty rows fit it without an error."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.noise = nn.Parameter(torch.zeros(40, dtype=torch.float64))

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        features, others, targets = batch
        return (features @ self.signal + others @ self.noise - targets).square().mean()


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
