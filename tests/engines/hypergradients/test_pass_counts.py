"""Forward and backward passes of an upper step, against the cost model of the design."""

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch

PRODUCT_PASSES = {"first_order": 0, "forward": 1, "central": 2}
"""Passes on D1 of one upper step, besides its one on D2."""


@pytest.mark.parametrize("unroll", [1, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("scheme", PRODUCT_PASSES)
def test_an_upper_step_costs_what_the_model_says(
    make_transformer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, scheme: str, accumulation: int, unroll: int
) -> None:
    choice = scheme if scheme == "first_order" else {"name": "darts", "finite_difference": scheme}
    problem = make_transformer("bert", dropout=0.1, hypergradient=choice, steps=unroll, accumulation=accumulation)
    forward, grad = Mock(return_value=None), Mock(wraps=torch.autograd.grad)
    backward = Mock(wraps=torch.autograd.backward)
    problem.model.register_forward_pre_hook(forward)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(torch.autograd, "backward", backward)
    problem.engine.run()
    expected = unroll * accumulation + 1 + PRODUCT_PASSES[scheme] * accumulation
    assert (forward.call_count, grad.call_count + backward.call_count) == (expected, expected)
    assert problem.engine.upper_step == 1
