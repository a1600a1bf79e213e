"""A state on its way to the disk and back."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from bilora.errors import CheckpointError
from bilora.files.state import Packed, pack, unpack

STATES: dict[str, Any] = {
    "numbers": {"a": 1, "b": 0.1, "c": True, "d": None, "e": "text"},
    "not finite": {"up": math.inf, "down": -math.inf, "none": math.nan},
    "containers": {"list": [1, [2]], "tuple": (1, (2, [3])), "empty": [{}, (), []]},
    "keys that are no strings": {0: {"step": 1}, (1, 2): "pair", None: "none"},
    "a key of ours": {"$": "tensor", "name": "mine"},
    "only a number": 3,
}


@pytest.mark.parametrize("name", STATES)
def test_comes_back_as_it_was(name: str) -> None:
    packed = pack(STATES[name], part="x")
    tree = json.loads(json.dumps(packed.tree, allow_nan=False))
    assert repr(unpack(Packed(packed.tensors, tree), part="x")) == repr(STATES[name])  # nan is not equal to itself


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor(3, dtype=torch.uint8),
        torch.empty(0),
        torch.ones(2, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.ones(1, dtype=torch.float64, requires_grad=True),
    ],
)
def test_tensors_come_back_in_value_shape_and_type(tensor: Any) -> None:
    (copy,) = unpack(pack([tensor], part="x"), part="x")
    assert (copy.shape, copy.dtype, copy.requires_grad) == (tensor.shape, tensor.dtype, False)
    assert torch.equal(copy, tensor.detach())


def test_a_packed_tensor_is_a_copy_even_of_one_that_is_there_twice() -> None:
    tensor = torch.zeros(2)
    packed = pack({"a": tensor, "b": tensor}, part="x")
    tensor.add_(1)
    copies = unpack(packed, part="x")
    assert copies["a"].tolist() == copies["b"].tolist() == [0, 0]
    assert copies["a"] is not copies["b"]


@pytest.mark.parametrize("kind", ["uint32", "int64", "float64", "bool"])
def test_arrays_keep_their_type(kind: str) -> None:
    array = unpack(pack(np.array([1, 0]).astype(kind), part="x"), part="x")
    assert (array.dtype, array.tolist()) == (np.dtype(kind), [1, 0])


@pytest.mark.parametrize("thing", [object(), {1, 2}, lambda: 0, torch.device("cpu"), b"bytes"])
def test_what_would_need_a_pickle_is_refused(thing: Any) -> None:
    with pytest.raises(CheckpointError, match=r"mine cannot be saved: a\.0 is a "):
        pack({"a": [thing]}, part="mine")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda packed: packed.tensors.clear(), "checkpoint incomplete: mine: a is missing"),
        (lambda packed: packed.tensors.update(b=torch.ones(1)), "does not fit: mine: tensor 'b' is left over"),
        (lambda packed: packed.tree["a"].update({"$": "code"}), "checkpoint incomplete: mine: a is missing"),
    ],
)
def test_trees_and_tensors_that_do_not_belong_together(change: Any, match: str) -> None:
    packed = pack({"a": torch.ones(1)}, part="mine")
    change(packed)
    with pytest.raises(CheckpointError, match=match):
        unpack(packed, part="mine")


def test_the_digest_sees_values_shapes_and_types() -> None:
    same = pack({"a": torch.ones(2), "b": 1}, part="x").digest()
    assert pack({"b": 1, "a": torch.ones(2)}, part="x").digest() == same
    others = [torch.ones(1, 2), torch.ones(2).double(), torch.tensor([1.0, 2.0])]
    assert len({pack({"a": other, "b": 1}, part="x").digest() for other in others} | {same}) == 4
    assert pack({"a": torch.ones(2), "b": 2}, part="x").digest() != same
