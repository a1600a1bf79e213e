"""A state on the disk: tensors by name, and strict JSON that says where each of them belongs."""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bilora.errors import CheckpointError

# Marks a JSON object that stands for something JSON does not have; a dict with this key is written as pairs.
KIND = "$"


@dataclass(frozen=True)
class Packed:
    """A state in two parts: tensors on the CPU, by their path in the tree (``state.0.exp_avg``), and a tree of JSON."""

    tensors: dict[str, Tensor]
    tree: Any

    def digest(self) -> str:
        """Return a hash of everything in it, whatever the order of the names."""
        # Sorted: a state that was loaded may have its names in another order.
        sha256 = hashlib.sha256(json.dumps(self.tree, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha256.hexdigest()


def pack(state: Any, *, part: str) -> Packed:
    """Return a state as tensors and strict JSON; nothing is pickled, so a value of another type is refused."""
    tensors: dict[str, Tensor] = {}
    return Packed(tensors, _packed(state, "", tensors, part))


def unpack(packed: Packed, *, part: str) -> Any:
    """Return the state that was packed; raise CheckpointError where tree and tensors do not belong together."""
    left = dict(packed.tensors)
    state = _unpacked(packed.tree, left, part)
    if left:
        raise CheckpointError(f"checkpoint does not fit: {part}: tensor {sorted(left)[0]!r} is left over")
    return state


def _packed(value: Any, path: str, tensors: dict[str, Tensor], part: str) -> Any:
    if isinstance(value, Tensor):
        # A copy: a file of tensors cannot hold two that share memory, and the run goes on meanwhile.
        tensors[path or "value"] = value.detach().to("cpu", copy=True).contiguous()
        return {KIND: "tensor", "name": path or "value"}
    if isinstance(value, np.ndarray):
        # As int64: torch supports uint32, in which NumPy keeps its random state, in part only.
        tensors[path or "value"] = torch.from_numpy(value.astype(np.int64 if value.dtype.kind in "iu" else value.dtype))
        return {KIND: "array", "name": path or "value", "dtype": value.dtype.name}
    # Exactly these: a named tuple would come back as a plain one.
    if type(value) in (list, tuple):
        items = [_packed(item, _below(path, index), tensors, part) for index, item in enumerate(value)]
        return items if type(value) is list else {KIND: "tuple", "items": items}
    if isinstance(value, Mapping):
        return _packed_mapping(value, path, tensors, part)
    if isinstance(value, float | np.floating) and not math.isfinite(value):  # no JSON has these
        return {KIND: "float", "value": str(float(value))}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.integer | np.floating | np.bool_):
        return value.item()
    raise CheckpointError(
        f"{part} cannot be saved: {path or 'it'} is a {type(value).__name__}; a checkpoint holds dicts, lists, "
        "tuples, tensors, arrays, numbers and strings only"
    )


def _packed_mapping(value: Mapping[Any, Any], path: str, tensors: dict[str, Tensor], part: str) -> Any:
    if all(type(key) is str and key != KIND for key in value):
        return {key: _packed(item, _below(path, key), tensors, part) for key, item in value.items()}
    pairs = [
        [_packed(key, _below(path, f"key{index}"), tensors, part), _packed(item, _below(path, index), tensors, part)]
        for index, (key, item) in enumerate(value.items())
    ]
    return {KIND: "pairs", "items": pairs}


def _unpacked(value: Any, left: dict[str, Tensor], part: str) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, left, part) for item in value]
    if not isinstance(value, dict):
        return value
    if KIND not in value:
        return {key: _unpacked(item, left, part) for key, item in value.items()}
    try:
        return SPECIAL[value[KIND]](value, left, part)
    except (KeyError, TypeError, ValueError) as error:
        name = value.get("name", value[KIND])
        raise CheckpointError(f"checkpoint incomplete: {part}: {name} is missing") from error


SPECIAL: dict[str, Callable[[dict[str, Any], dict[str, Tensor], str], Any]] = {
    "tensor": lambda value, left, _: left.pop(value["name"]),
    "array": lambda value, left, _: left.pop(value["name"]).numpy().astype(value["dtype"]),
    "tuple": lambda value, left, part: tuple(_unpacked(item, left, part) for item in value["items"]),
    "pairs": lambda value, left, part: dict(_unpacked(pair, left, part) for pair in value["items"]),
    "float": lambda value, *_: float(value["value"]),
}


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


class Stateful(Protocol):
    """A part of a run whose state can be taken, and given to a part built anew from the same settings.

    A state is a tree of dicts, lists, tuples, tensors, NumPy arrays, numbers, strings and None; nothing else is
    ever written. Loading takes all of it or raises: a missing entry is never replaced by a fresh one.
    """

    def state(self) -> Any:
        """Return the state; empty (``{}``) where there is none."""
        ...

    def load_state(self, state: Any) -> None:
        """Take the state over.

        Raises:
            CheckpointError: An entry is missing, is left over, or does not fit; it is named.
        """
        ...


def check_keys(state: Any, expected: Collection[str], *, part: str) -> Mapping[str, Any]:
    """Return ``state``, of ``part`` of a run, if it is a mapping with exactly the expected keys."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"checkpoint incomplete: {part} is missing")
    missing = [f"{name} is missing" for name in expected if name not in state]
    faults = missing + [f"{name} is left over" for name in state if name not in expected]
    if faults:
        verdict = "incomplete" if missing else "does not fit"
        raise CheckpointError(f"checkpoint {verdict}: {part}: {'; '.join(faults)}")
    return state
