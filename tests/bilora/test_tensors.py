"""Arithmetic over tuples of tensors, gradients as they lie in memory, and batches on a device."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import BatchEncoding

from bilora import tensors
from bilora.tensors import difference, dot, laid_out_like, norm, put, restored, scaled, to_device, zeros_like

LEFT = (torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([4.0]))
RIGHT = (torch.tensor([[2.0, 1.0], [-1.0, 0.0]]), torch.tensor([-0.5]))


def test_norm_and_dot_are_those_of_the_flat_vector() -> None:
    assert norm(LEFT) == pytest.approx(tensors.flatten(LEFT).norm().item(), rel=1e-7)
    assert dot(LEFT, RIGHT) == pytest.approx((tensors.flatten(LEFT) @ tensors.flatten(RIGHT)).item(), rel=1e-7)
    assert norm(()) == 0.0
    # float64 is not rounded.
    value = torch.tensor([1.0 + 1e-12], dtype=torch.float64)
    assert norm((value,)) == 1.0 + 1e-12
    assert dot((value,), (torch.ones(1, dtype=torch.float64),)) == 1.0 + 1e-12


def test_norm_of_what_is_not_finite_is_not_finite() -> None:
    assert math.isnan(norm((torch.tensor([1.0, math.nan]),)))
    assert math.isinf(norm((torch.tensor([math.inf]),)))


def test_the_norm_of_gradients_takes_none_for_zero() -> None:
    assert tensors.gradient_norm([torch.tensor([3.0]), None, torch.tensor([[4.0]])]).item() == 5.0
    assert tensors.gradient_norm([None]).item() == 0.0


def test_scaled_by_one_and_by_each_and_a_difference() -> None:
    assert torch.equal(tensors.flatten(scaled(LEFT, -2.0)), -2 * tensors.flatten(LEFT))
    assert torch.equal(tensors.flatten(scaled(LEFT, [2.0, 0.5])), tensors.flatten((2 * LEFT[0], 0.5 * LEFT[1])))

    assert torch.equal(
        tensors.flatten(difference(LEFT, RIGHT, over=0.5)), 2 * (tensors.flatten(LEFT) - tensors.flatten(RIGHT))
    )


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


def test_gradients_are_laid_out_like_their_parameters_with_values_in_their_places() -> None:
    gradient = torch.arange(6.0).reshape(3, 2).T
    laid_out = laid_out_like(gradient, torch.zeros(2, 3))
    assert torch.equal(laid_out, gradient) and laid_out.stride() == (3, 1)
    assert laid_out_like(gradient, gradient.clone()) is gradient


# A device that every machine has and no batch comes from.
META = torch.device("meta")


class Pair(NamedTuple):
    x: Tensor
    name: str


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("batch", "kind"),
    [(X, Tensor), ({"x": X}, dict), (BatchEncoding({"x": X}), dict), ([X], list), ((X,), tuple), (Pair(X, "a"), Pair)],
)
def test_types(batch: Any, kind: type) -> None:
    assert type(to_device(batch, META)) is kind


def test_every_tensor_of_a_nested_batch_is_moved_and_the_original_stays() -> None:
    batch = {"a": [X, {"b": Pair(X, "name")}], "c": (X, 3, None)}
    moved = to_device(batch, META)
    tensors = [moved["a"][0], moved["a"][1]["b"].x, moved["c"][0]]
    assert [(tensor.device, tensor.shape) for tensor in tensors] == [(META, (2, 3))] * 3
    assert (moved["a"][1]["b"].name, moved["c"][1:]) == ("name", (3, None))
    moved["a"].clear()
    assert torch.equal(batch["a"][0], X)
    assert torch.equal(batch["a"][1]["b"].x, X)


def test_values_stay_the_same() -> None:
    batch = [torch.arange(4), torch.tensor([True, False])]
    moved = to_device(batch, torch.device("cpu"))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(batch, moved, strict=True))
