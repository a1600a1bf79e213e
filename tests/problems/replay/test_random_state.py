"""Random states of every generator are taken, replayed, and put back, come what may."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from bilora.problems.replay.random_state import RandomState

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_replay_gives_the_same_numbers() -> None:
    state = RandomState.take(CPU)
    first = [draw() for _ in range(3)]
    with state.replayed():
        assert [draw() for _ in range(3)] == first
    with state.replayed():
        assert [draw() for _ in range(2)] == first[:2]


@pytest.mark.parametrize("fails", [False, True])
def test_generators_go_on_as_if_nothing_had_been_replayed(fails: bool) -> None:
    state = RandomState.take(CPU)
    draw()
    undisturbed = RandomState.take(CPU)
    expected = draw()
    undisturbed.put_back()
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), state.replayed():
        draw()
        if fails:
            raise ZeroDivisionError
    assert draw() == expected


def test_taking_a_state_draws_nothing() -> None:
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    RandomState.take(CPU)
    assert torch.equal(torch.rand(4), expected)


def test_later_draws_do_not_reach_a_taken_state() -> None:
    """torch hands out a view of its state on some devices; what is held must be a copy."""
    state = RandomState.take(CPU)
    held = state.torch_cpu.clone()
    draw()
    assert torch.equal(state.torch_cpu, held)
