"""A state as it lies on the disk: tensors by name, and a strict-JSON mapping that says where each belongs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bilora.errors import CheckpointError

KIND = "$"
"""Marks a JSON object that stands for something JSON does not have; no dict of a state may have this key."""


@dataclass(frozen=True)
class Packed:
    """A state in two parts.

    Attributes:
        tensors: Tensors by their place in the tree (``state.0.exp_avg``), on the CPU.
        tree: The rest, ready for strict JSON.
    """

    tensors: dict[str, Tensor]
    tree: Any

    def digest(self) -> str:
        """Return a hash of everything in it, the order of the names apart."""
        found = hashlib.sha256(json.dumps(self.tree, sort_keys=True).encode())
        for name, each in sorted(self.tensors.items()):
            found.update(f"{name} {each.dtype} {tuple(each.shape)} ".encode())
            found.update(each.reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def pack(state: Any, *, part: str) -> Packed:
    """Return a state as tensors and strict JSON; nothing is pickled, so what neither can hold is refused.

    Args:
        state: A tree of dicts, lists, tuples, tensors, arrays, numbers, strings and None.
        part: What it is the state of, for the error text.

    Raises:
        CheckpointError: Something in it is of another type.

    Example:
        >>> packed = pack({"rate": (0.1, float("inf")), 3: torch.ones(2)}, part="example")
        >>> sorted(packed.tensors), unpack(packed, part="example")["rate"]
        (['1'], (0.1, inf))
    """
    tensors: dict[str, Tensor] = {}
    return Packed(tensors, _packed(state, "", tensors, part))


def unpack(packed: Packed, *, part: str) -> Any:
    """Return the state that was packed.

    Raises:
        CheckpointError: A tensor is missing or left over, or the tree is not one that :func:`pack` makes.
    """
    left = dict(packed.tensors)
    state = _unpacked(packed.tree, left, part)
    if left:
        raise CheckpointError(f"checkpoint does not fit: {part}: tensor {sorted(left)[0]!r} is left over")
    return state


def _packed(value: Any, place: str, tensors: dict[str, Tensor], part: str) -> Any:
    if isinstance(value, Tensor):
        # A copy: a file of tensors cannot hold two that share memory, and the run goes on meanwhile.
        tensors[place or "value"] = value.detach().to("cpu", copy=True).contiguous()
        return {KIND: "tensor", "name": place or "value"}
    if isinstance(value, np.ndarray):
        tensors[place or "value"] = torch.from_numpy(
            value.astype(np.int64 if value.dtype.kind in "iu" else value.dtype)
        )
        return {KIND: "array", "name": place or "value", "dtype": value.dtype.name}
    if type(value) in (list, tuple):
        items = [_packed(each, _below(place, index), tensors, part) for index, each in enumerate(value)]
        return items if type(value) is list else {KIND: "tuple", "items": items}
    if isinstance(value, Mapping):
        return _packed_mapping(value, place, tensors, part)
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return {KIND: "float", "value": str(float(value))}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.integer | np.floating | np.bool_):
        return value.item()
    raise CheckpointError(
        f"{part} cannot be saved: {place or 'it'} is a {type(value).__name__}; a checkpoint holds dicts, lists, "
        "tuples, tensors, arrays, numbers and strings only"
    )


def _packed_mapping(value: Mapping[Any, Any], place: str, tensors: dict[str, Tensor], part: str) -> Any:
    if all(type(key) is str and key != KIND for key in value):
        return {key: _packed(each, _below(place, key), tensors, part) for key, each in value.items()}
    pairs = []
    for index, (key, each) in enumerate(value.items()):
        kept = _packed(key, _below(place, f"key{index}"), tensors, part)
        pairs.append([kept, _packed(each, _below(place, index), tensors, part)])
    return {KIND: "pairs", "items": pairs}


def _unpacked(value: Any, left: dict[str, Tensor], part: str) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, left, part) for each in value]
    if not isinstance(value, dict):
        return value
    if KIND not in value:
        return {key: _unpacked(each, left, part) for key, each in value.items()}
    try:
        return _special(value, left, part)
    except (KeyError, TypeError, ValueError) as error:
        name = value.get("name", value[KIND])
        raise CheckpointError(f"checkpoint incomplete: {part}: {name} is missing") from error


def _special(value: dict[str, Any], left: dict[str, Tensor], part: str) -> Any:
    kind = value[KIND]
    if kind == "tensor":
        return left.pop(value["name"])
    if kind == "array":
        return left.pop(value["name"]).numpy().astype(value["dtype"])
    if kind == "tuple":
        return tuple(_unpacked(each, left, part) for each in value["items"])
    if kind == "pairs":
        return {_unpacked(key, left, part): _unpacked(each, left, part) for key, each in value["items"]}
    if kind == "float":
        return float(value["value"])
    raise ValueError(kind)


def _below(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


class Stateful(Protocol):
    """A part of a run whose state can be taken, and given to a part built anew from the same settings.

    A state is a tree of dicts, lists, tuples, tensors, NumPy arrays, numbers, strings and None; nothing else is
    ever written. Loading takes all of it or raises: what is missing is never replaced by something fresh.
    """

    def state(self) -> Any:
        """Return the state; empty (``{}``) where there is none."""
        ...

    def load_state(self, state: Any) -> None:
        """Take the state over.

        Raises:
            CheckpointError: Something is missing, is left over, or does not fit; it says what.
        """
        ...


def check_keys(found: Any, expected: Collection[str], *, part: str) -> Mapping[str, Any]:
    """Return ``found`` if it is a mapping with exactly the expected keys.

    Args:
        found: A state, or one level of it.
        expected: Its keys.
        part: What it is the state of, for the error text.

    Raises:
        CheckpointError: With the names of the keys that are missing or left over.

    Example:
        >>> check_keys({"step": 3}, ["step", "best"], part="early stopping")
        Traceback (most recent call last):
            ...
        bilora.errors.CheckpointError: checkpoint incomplete: early stopping: best is missing
    """
    if not isinstance(found, Mapping):
        raise CheckpointError(f"checkpoint incomplete: {part} is missing")
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is left over" for name in found if name not in expected]
    if faults:
        what = "incomplete" if any(name not in found for name in expected) else "does not fit"
        raise CheckpointError(f"checkpoint {what}: {part}: {'; '.join(faults)}")
    return found
