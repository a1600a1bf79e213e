"""Batches of any structure arrive on the device, and the loader's own is left as it was."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import BatchEncoding

from bilora.tensors import to_device

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
