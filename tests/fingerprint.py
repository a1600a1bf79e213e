"""Everything that a pass which changes nothing might touch, bit for bit."""

from typing import Any

import torch
from torch import nn

from bilora.problems.replay.random_state import RandomState


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return a copy of parameters, gradients, buffers and modes of a model, and of the random states."""
    gradients = {name: None if each.grad is None else each.grad.clone() for name, each in model.named_parameters()}
    state = RandomState.take(torch.device("cpu"))
    return {
        "parameters": {name: each.detach().clone() for name, each in model.named_parameters()},
        "gradients": gradients,
        "buffers": {name: each.clone() for name, each in model.named_buffers()},
        "modes": {name: each.training for name, each in model.named_modules()},
        "requires_grad": {name: each.requires_grad for name, each in model.named_parameters()},
        "random": [state.python, state.numpy[1].tolist(), state.numpy[2], state.torch_cpu.tolist()],
    }


def assert_same(found: Any, expected: Any) -> None:
    """Compare two of them, or parts of them."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected
