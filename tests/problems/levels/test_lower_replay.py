"""A lower step is replayed under its own dropout masks, and leaves no trace in random state or buffers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from betty.configs import Config
from torch import Tensor, nn
from torch.optim import SGD

from bilora.problems import LowerProblem, Needs, UpperProblem
from bilora.problems.replay.random_state import RandomState

NEEDS = Needs(steps=1, parameters_before=True, upper_gradient=True)
CPU = torch.device("cpu")


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
        return {name: each for name, each in self.module.named_parameters() if name != "gain"}

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
    above.hypergradient, below.needs = stub(needs=NEEDS), NEEDS
    train(below, 2, above)
    return below


def back_to_the_step(level: LowerProblem) -> None:
    before = level.recorded_step().parameters_before
    assert before is not None
    with torch.no_grad():
        for parameter, value in zip(level.trainable_parameters(), before, strict=True):
            parameter.copy_(value)


def test_step_comes_back_bit_for_bit(lower: Lower) -> None:
    """At the parameters of the step: the same masks and noise, so the same losses and the same gradient."""
    losses = list(lower.module.losses)
    back_to_the_step(lower)
    torch.manual_seed(99)
    (gradient,) = lower.replayed_gradient([lower.module.gain])
    assert len(losses) == 2
    assert lower.module.losses[2:] == losses
    recorded = lower.recorded_step().upper_gradient
    assert recorded is not None
    assert torch.equal(gradient, recorded[0])


def test_masks_matter_here(lower: Lower) -> None:
    """Without the recorded random state the losses are others; so the test above can fail."""
    losses = list(lower.module.losses)
    back_to_the_step(lower)
    for micro_batch in lower.recorded_step().micro_batches:
        lower.training_step_exec(micro_batch.batch)
    assert all(a != b for a, b in zip(lower.module.losses[2:], losses, strict=True))


def test_every_replay_is_the_same(lower: Lower) -> None:
    first = lower.replayed_gradient([lower.module.gain])
    second = lower.replayed_gradient([lower.module.gain])
    assert torch.equal(first[0], second[0])


def trace(level: LowerProblem) -> list[Any]:
    """All that a replay must leave as it is, bit for bit."""
    state = RandomState.take(CPU)
    buffers = {name: each.clone() for name, each in level.module.named_buffers()}
    parameters = [each.detach().clone() for each in level.module.parameters()]
    numpy_state = [np.array(each) if isinstance(each, np.ndarray) else each for each in state.numpy]
    return [state.python, numpy_state, state.torch_cpu, buffers, parameters, level.module.training]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("left", [10**6, 1, 0])
def test_replay_leaves_no_trace(lower: Lower, left: int, training: bool) -> None:
    """Also when the loss raises, in the first micro-batch or in the second."""
    lower.module.train(training)
    before = trace(lower)
    means = before[3]["norm.running_mean"], before[3]["average.mean"], before[3]["norm.num_batches_tracked"]
    lower.left = left
    if left < 2:
        with pytest.raises(MemoryError):
            lower.replayed_gradient([lower.module.gain])
    else:
        lower.replayed_gradient([lower.module.gain])
    compare(trace(lower), before)
    assert means[0].abs().max() > 0  # two lower passes and one upper pass have moved them
    assert means[1].abs().max() > 0
    assert means[2] == 3
    assert all(each.grad is None for each in lower.module.parameters())


def compare(ours: list[Any], theirs: list[Any]) -> None:
    assert ours[0] == theirs[0]
    assert all(np.array_equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))
    assert torch.equal(ours[2], theirs[2])
    assert ours[3].keys() == theirs[3].keys()
    assert all(torch.equal(ours[3][name], theirs[3][name]) for name in ours[3])
    assert all(torch.equal(a, b) for a, b in zip(ours[4], theirs[4], strict=True))
    assert ours[5] is theirs[5]


def test_only_buffers_that_move_are_saved(lower: Lower) -> None:
    """A quantised base keeps its weights in buffers; copying them at every upper step would cost dear."""
    moving = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "average.mean"}
    assert lower._buffers.names == moving
