"""Buffers that a run has changed, and no other."""

import pytest
import torch
from torch import nn

from bilora.errors import CheckpointError
from bilora.problems.replay.buffers import ChangedBuffers


def model() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval())
    made.register_buffer("constant", torch.ones(2))
    return made


def test_statistics_of_one_model_go_over_to_another() -> None:
    one, other = model(), model()
    begun, resumed = ChangedBuffers(one), ChangedBuffers(other)
    one(torch.randn(4, 3))
    state = {name: buffer.clone() for name, buffer in begun.state().items()}
    assert sorted(state) == ["1.num_batches_tracked", "1.running_mean", "1.running_var"]
    resumed.load_state(state)
    assert torch.equal(other[1].running_mean, one[1].running_mean)
    assert sorted(resumed.state()) == sorted(state), "changed before the resume, so still of the state"


@pytest.mark.parametrize("state", [{"9.mean": torch.ones(2)}, {"1.running_mean": torch.ones(3)}])
def test_buffers_that_there_are_not(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="checkpoint does not fit: buffers: "):
        ChangedBuffers(model()).load_state(state)
