"""One process alone, and what a step tells the others, against a group that is played by lists."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilora.errors import ProcessesError
from bilora.problems.levels.level import share_gradients
from bilora.processes.processes import ONE_PROCESS, Processes, taken_in_turn


class Played(Processes):
    """Two processes, of which the other one's answers are given."""

    def __init__(self, rank: int = 0, other: Any = None) -> None:
        self.rank, self.count, self.other = rank, 2, other
        self.messages = 0

    def averaged(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.messages += 1
        return tuple((tensor + other) / 2 for tensor, other in zip(tensors, self.other, strict=True))

    def gathered(self, value: Any) -> list[Any]:
        return [value, self.other] if self.is_first else [self.other, value]


def test_alone_nothing_is_changed() -> None:
    tensors = (torch.ones(2, requires_grad=True), torch.zeros(1))
    assert all(a is b for a, b in zip(ONE_PROCESS.averaged(tensors), tensors, strict=True))
    assert ONE_PROCESS.first_only(lambda: "done") == "done"
    assert (ONE_PROCESS.any(True), ONE_PROCESS.any(False), ONE_PROCESS.gathered(3)) == (True, False, [3])
    ONE_PROCESS.check_equal("anything", object())


def test_alone_the_random_state_stays() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    ONE_PROCESS.fork_random_state(7)
    assert torch.equal(torch.rand(1), expected)


def test_every_process_draws_its_own_numbers_and_the_same_in_each_run() -> None:
    numbers = []
    for rank, seed in ((0, 7), (1, 7), (0, 8), (0, 7)):
        Played(rank).fork_random_state(seed)
        numbers.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert numbers[0] == numbers[3]
    assert all(len(set(generator)) == 3 for generator in zip(*numbers, strict=True))


def test_values_that_differ_are_refused_by_name() -> None:
    Played(other=1).check_equal("seeds", 1)
    with pytest.raises(ProcessesError, match="^seeds of process 1 differ from those of process 0"):
        Played(other=2).check_equal("seeds", 1)


def test_a_step_is_one_message() -> None:
    used, idle, foreign = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    used.grad = torch.tensor([1.0, 3.0])
    # The other process has a gradient of `foreign`, and neither has one of `idle`.
    answers = [torch.tensor([3.0, 5.0]), torch.zeros(2), torch.full((2,), 4.0), torch.tensor([9.0])]
    processes = Played(other=[*answers, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([4.0, 6.0])])
    means, more = share_gradients([used, idle, foreign], torch.tensor([2.0, 2.0]), [torch.tensor([1.0])], processes)
    assert (used.grad.tolist(), idle.grad, foreign.grad.tolist()) == ([2.0, 4.0], None, [2.0, 2.0])
    assert (means.tolist(), [mean.tolist() for mean in more]) == ([3.0, 4.0], [[5.0]])
    assert processes.messages == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_are_taken_in_turn(rank: int) -> None:
    worked: list[int] = []

    def work(batch: int) -> int:
        worked.append(batch)
        return 10 * batch

    results = list(taken_in_turn([1, 2, 3], work, Played(rank, "other's")))
    # Of the last round's one batch both processes have an answer, and the first one's is taken.
    assert (results, worked) == (([10, "other's", 30], [1, 3]) if rank == 0 else (["other's", 20, "other's"], [2, 3]))
