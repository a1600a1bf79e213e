"""Arithmetic over tuples of tensors."""

from __future__ import annotations

import math

import pytest
import torch

from bilora.tensors import difference, dot, norm, put, restored, scaled, zeros_like

LEFT = (torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([4.0]))
RIGHT = (torch.tensor([[2.0, 1.0], [-1.0, 0.0]]), torch.tensor([-0.5]))


def flat(vector: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([each.reshape(-1) for each in vector])


def test_norm_and_dot_are_those_of_the_flat_vector() -> None:
    assert norm(LEFT) == pytest.approx(flat(LEFT).norm().item(), rel=1e-7)
    assert dot(LEFT, RIGHT) == pytest.approx((flat(LEFT) @ flat(RIGHT)).item(), rel=1e-7)
    assert norm(()) == 0.0


def test_float64_is_not_rounded() -> None:
    value = torch.tensor([1.0 + 1e-12], dtype=torch.float64)
    assert norm((value,)) == 1.0 + 1e-12
    assert dot((value,), (torch.ones(1, dtype=torch.float64),)) == 1.0 + 1e-12


def test_norm_of_what_is_not_finite_is_not_finite() -> None:
    assert math.isnan(norm((torch.tensor([1.0, math.nan]),)))
    assert math.isinf(norm((torch.tensor([math.inf]),)))


def test_scaled_by_one_and_by_each() -> None:
    assert torch.equal(flat(scaled(LEFT, -2.0)), -2 * flat(LEFT))
    each = scaled(LEFT, [2.0, 0.5])
    assert torch.equal(each[0], 2 * LEFT[0])
    assert torch.equal(each[1], 0.5 * LEFT[1])


def test_difference() -> None:
    assert torch.equal(flat(difference(LEFT, RIGHT, over=0.5)), 2 * (flat(LEFT) - flat(RIGHT)))


def test_zeros_have_shape_and_dtype() -> None:
    (zero,) = zeros_like([torch.ones(2, 3, dtype=torch.float64)])
    assert (zero.shape, zero.dtype, zero.any().item()) == ((2, 3), torch.float64, False)


@pytest.mark.parametrize("raises", [False, True])
def test_restored_bit_for_bit_also_when_the_block_raises(raises: bool) -> None:
    parameter = torch.nn.Parameter(torch.rand(50) * 1e-3)
    before = parameter.detach().clone()
    try:
        with restored([parameter]) as (copy,):
            with torch.no_grad():
                parameter.add_(0.1).sub_(0.1)  # adding back does not restore
            assert torch.equal(copy, before)
            assert not torch.equal(parameter, before)
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert raises
    assert torch.equal(parameter, before)
    assert parameter.requires_grad


def test_place_leaves_no_graph_and_keeps_the_object() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    put([parameter], [torch.ones(2)])
    assert (parameter.tolist(), parameter.grad_fn, parameter.is_leaf) == ([1.0, 1.0], None, True)
