"""Arithmetic over tuples of tensors, gradients as they lie in memory, and batches on a device."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import BatchEncoding

from bilora.tensors import difference, dot, laid_out_like, norm, put, restored, scaled, to_device, zeros_like

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


def test_gradients_are_laid_out_like_their_parameters_with_values_in_their_places() -> None:
    gradient = torch.arange(6.0).reshape(3, 2).T
    found = laid_out_like(gradient, torch.zeros(2, 3))
    assert torch.equal(found, gradient) and found.stride() == (3, 1)
    assert laid_out_like(gradient, gradient.clone()) is gradient


# A device that every machine has and no batch comes from.
META = torch.device("meta")


class Pair(NamedTuple):
    x: Tensor
    name: str


def x() -> Tensor:
    return torch.ones(2, 3)


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (x(), Tensor),
        ({"x": x()}, dict),
        (BatchEncoding({"x": x()}), dict),
        ([x()], list),
        ((x(),), tuple),
        (Pair(x(), "a"), Pair),
    ],
)
def test_types(batch: Any, kind: type) -> None:
    assert type(to_device(batch, META)) is kind


def test_every_tensor_of_a_nested_batch_is_moved() -> None:
    batch = {"a": [x(), {"b": Pair(x(), "name")}], "c": (x(), 3, None)}
    moved = to_device(batch, META)
    tensors = [moved["a"][0], moved["a"][1]["b"].x, moved["c"][0]]
    assert [each.device for each in tensors] == [META] * 3
    assert [each.shape for each in tensors] == [(2, 3)] * 3
    assert moved["a"][1]["b"].name == "name"
    assert moved["c"][1:] == (3, None)


def test_the_original_is_unchanged() -> None:
    inner = {"x": x()}
    batch = {"inner": inner, "list": [inner["x"]]}
    moved = to_device(batch, META)
    assert batch["inner"] is inner
    assert inner["x"].device.type == "cpu"
    moved["inner"]["x"] = None
    moved["list"].clear()
    assert torch.equal(inner["x"], x())
    assert len(batch["list"]) == 1


def test_values_stay_the_same() -> None:
    batch = [torch.arange(4), torch.tensor([True, False])]
    moved = to_device(batch, torch.device("cpu"))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(batch, moved, strict=True))
