"""What a lower level remembers, when and at what cost; and its step replayed under its own masks without a trace."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from betty.configs import Config
from fingerprint import assert_same, fingerprint
from torch import Tensor, nn
from torch.optim import SGD

from bilora.problems import LowerProblem, Needs, UpperProblem
from bilora.tensors import put

MakeRidge = Callable[..., Any]
EVERYTHING = Needs(steps=1, parameters_before=True, upper_gradient=True)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of forward passes that were recorded, one entry each."""
    count: list[int] = []
    original = torch.get_rng_state

    def counted() -> Tensor:
        count.append(1)
        return original()

    monkeypatch.setattr(torch, "get_rng_state", counted)
    return count


@pytest.mark.parametrize(("unroll", "gas", "warmup"), [(1, 1, 0), (3, 1, 0), (2, 4, 0), (1, 3, 6), (2, 1, 3)])
def test_only_steps_that_an_upper_step_follows_are_recorded(
    make_ridge: MakeRidge, stub: Any, taken: list[int], unroll: int, gas: int, warmup: int
) -> None:
    """All micro-batches of the last optimizer step before an upper step, and no other."""
    config = Config(unroll_steps=unroll, gradient_accumulation=gas, warmup_steps=warmup)
    ridge = make_ridge(lower_config=config, hypergradient=stub(needs=Needs(steps=1)))
    recorded = []
    for _ in range(24):
        before = len(taken)
        ridge.run(1)
        recorded.append(len(taken) - before)
    steps = [-(-micro // gas) for micro in range(1, 25)]
    followed = [step for step in set(steps) if step % unroll == 0 and step * gas > warmup]
    assert recorded == [int(step in followed) for step in steps]
    assert len(ridge.lower.recorded_step().micro_batches) == gas


def test_nothing_is_recorded_unless_asked_for(make_ridge: MakeRidge, taken: list[int]) -> None:
    ridge = make_ridge()
    ridge.run(3)
    assert not taken and not ridge.lower._steps
    with pytest.raises(RuntimeError, match="level 'lower' has recorded 0 steps, not 1; set its 'needs'"):
        ridge.lower.replayed_gradient([ridge.V])


def test_single_level_records_nothing(train: Any, taken: list[int]) -> None:
    module = nn.Linear(3, 1)
    optimizer = SGD(module.parameters(), lr=0.1)
    level: Any = LowerProblem("lower", None, module, optimizer, train_data_loader=[torch.ones(2, 3)])
    level.training_step = lambda batch: module(batch).mean()
    level.needs = EVERYTHING
    train(level, 2)
    assert not taken and not level._steps


def test_recorded_step_in_closed_form(make_ridge: MakeRidge, stub: Any) -> None:
    """Parameters before the step, d_E L1 = exp(E) V^2 there, the rate it was taken at, and its batches."""
    config = Config(gradient_accumulation=2)
    ridge = make_ridge(lower_config=config, hypergradient=stub(needs=EVERYTHING))
    before = ridge.V.detach().clone()
    gradient = sum(ridge.lower_gradient(batch) for batch in ridge.lower_batches[:2]) / 2
    expected = ridge.E.detach().exp() * before**2
    ridge.run(2)
    step = ridge.lower.recorded_step()
    assert torch.equal(step.parameters_before[0], before)
    torch.testing.assert_close(step.upper_gradient[0], expected, rtol=1e-13, atol=0)
    assert step.learning_rates == (0.05,)
    for micro_batch, batch in zip(step.micro_batches, ridge.lower_batches[:2], strict=True):
        assert torch.equal(micro_batch.batch[0], batch[0])
    torch.testing.assert_close(ridge.V.detach(), before - 0.05 * gradient, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("before", "gradient"), [(False, False), (True, False), (False, True)])
def test_only_what_is_needed_is_held(make_ridge: MakeRidge, stub: Any, before: bool, gradient: bool) -> None:
    needs = Needs(steps=1, parameters_before=before, upper_gradient=gradient)
    ridge = make_ridge(hypergradient=stub(needs=needs))
    ridge.run(1)
    step = ridge.lower.recorded_step()
    assert (step.parameters_before is not None, step.upper_gradient is not None) == (before, gradient)


def test_recording_changes_no_step(make_ridge: MakeRidge, stub: Any) -> None:
    config = Config(gradient_accumulation=2, unroll_steps=2)
    plain = make_ridge(lower_config=config)
    recording = make_ridge(lower_config=config, hypergradient=stub(needs=EVERYTHING))
    plain.run(12)
    recording.run(12)
    assert torch.equal(plain.V, recording.V)
    assert torch.equal(plain.E, recording.E)


def test_learning_rates_follow_the_param_groups(make_ridge: MakeRidge, stub: Any) -> None:
    """One rate a parameter, in the order of the parameters, as it was when the step was taken."""
    ridge = make_ridge(hypergradient=stub(needs=Needs(steps=1)))
    second = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    ridge.lower._named_parameters = {"first": ridge.V, "second": second}
    groups = [{"params": [second], "lr": 0.3}, {"params": [ridge.V], "lr": 0.2}]
    ridge.lower.optimizer = SGD(groups)
    ridge.lower.learning_rate_scheduler = torch.optim.lr_scheduler.StepLR(ridge.lower.optimizer, 1, gamma=0.1)
    ridge.run(1)
    assert ridge.lower.recorded_step().learning_rates == (0.2, 0.3)
    ridge.run(1)
    assert ridge.lower.recorded_step().learning_rates == pytest.approx((0.02, 0.03), rel=1e-15)


def test_gradient_in_parameters_of_either_level(make_ridge: MakeRidge, stub: Any) -> None:
    """d_V L1 and d_E L1 of the recorded step at the parameters as they are now; zeros for a stranger."""
    config = Config(gradient_accumulation=2)
    ridge = make_ridge(lower_config=config, hypergradient=stub(needs=Needs(steps=1)))
    ridge.run(2)
    stranger = nn.Parameter(torch.ones(3))
    with torch.no_grad():
        ridge.V.mul_(2)
    in_V, in_E, in_stranger = ridge.lower.replayed_gradient([ridge.V, ridge.E, stranger])
    expected = sum(ridge.lower_gradient(batch) for batch in ridge.lower_batches[:2]) / 2
    torch.testing.assert_close(in_V, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(in_E, ridge.E.detach().exp() * ridge.V.detach() ** 2, rtol=1e-12, atol=0)
    assert torch.equal(in_stranger, torch.zeros(3))
    assert ridge.V.grad is None
    assert ridge.E.grad is None


class Averaged(nn.Module):
    """Keeps a mean in a buffer that it replaces, instead of changing it in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x


class Network(nn.Module):
    """Dropout, noise of NumPy's and Python's, batch norm, a replaced buffer and one that nobody touches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.average = nn.Linear(4, 6), nn.BatchNorm1d(6), Averaged()
        self.dropout, self.second = nn.Dropout(0.5), nn.Linear(6, 1)
        self.gain = nn.Parameter(torch.ones(6))
        self.register_buffer("constant", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        noise = 0.1 * random.random() + 0.1 * np.random.rand()
        hidden = torch.tanh(self.average(self.norm(self.first(x)))) + noise
        output: Tensor = self.second(self.dropout(hidden) * self.gain)
        return output


class Lower(LowerProblem):
    """Everything but the gain; notes its losses, takes its batch apart, and fails after ``left`` passes."""

    left = 10**6

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.module.named_parameters() if name != "gain"}

    def training_step(self, batch: Any) -> Any:
        loss = (self.module(batch.pop("x")) ** 2).mean()
        self.module.losses.append(loss.item())
        self.left -= 1
        if self.left < 0:
            raise MemoryError("in the middle of a replay")
        return loss


class Upper(UpperProblem):
    """The gain, which stays where it is: its learning rate is zero."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"gain": self.module.gain}

    def training_step(self, batch: Any) -> Any:
        return (self.module(batch["x"]) - 1).square().mean()


@pytest.fixture
def lower(stub: Any, train: Callable[..., None]) -> Lower:
    """A lower level after one step of two micro-batches, and the upper step that follows it."""
    module, batches = Network(), [{"x": torch.randn(5, 4)} for _ in range(4)]
    module.losses = []  # type: ignore[assignment]
    below = Lower("lower", Config(gradient_accumulation=2), module, train_data_loader=batches)
    above = Upper("upper", Config(), module, train_data_loader=batches)
    below.optimizer = SGD(below.trainable_parameters(), lr=0.1)
    above.optimizer = SGD(above.trainable_parameters(), lr=0.0)
    above.hypergradient, below.needs = stub(needs=EVERYTHING), EVERYTHING
    train(below, 2, above)
    return below


def back_to_the_step(level: LowerProblem) -> None:
    put(level.trainable_parameters(), level.recorded_step().parameters_before or ())


def test_step_comes_back_bit_for_bit(lower: Lower) -> None:
    """At the parameters of the step: the same masks and noise, so the same losses and the same gradient."""
    first, second = lower.module.losses
    back_to_the_step(lower)
    torch.manual_seed(99)
    (gradient,) = lower.replayed_gradient([lower.module.gain])
    assert lower.module.losses[2:] == [first, second]
    recorded = lower.recorded_step().upper_gradient
    assert recorded is not None
    assert torch.equal(gradient, recorded[0])
    # Without the recorded random state the losses are others.
    for micro_batch in lower.recorded_step().micro_batches:
        lower.training_step_exec(micro_batch.batch)
    assert all(a != b for a, b in zip(lower.module.losses[4:], (first, second), strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("left", [10**6, 1, 0])
def test_replay_leaves_no_trace(lower: Lower, left: int, training: bool) -> None:
    """Also when the loss raises, in the first micro-batch or in the second."""
    lower.module.train(training)
    before = fingerprint(lower.module)
    buffers = before["buffers"]
    lower.left = left
    with pytest.raises(MemoryError) if left < 2 else nullcontext():
        lower.replayed_gradient([lower.module.gain])
    assert_same(fingerprint(lower.module), before)
    # Two lower passes and one upper pass have moved them.
    assert all(buffers[name].abs().max() > 0 for name in ("norm.running_mean", "average.mean"))
    assert buffers["norm.num_batches_tracked"] == 3
    assert all(parameter.grad is None for parameter in lower.module.parameters())


def test_only_buffers_that_move_are_saved(lower: Lower) -> None:
    """A quantised base keeps its weights in buffers; copying them at every upper step would cost dear."""
    moving = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "average.mean"}
    assert lower._buffers.names == moving
