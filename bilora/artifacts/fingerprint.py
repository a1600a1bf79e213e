"""Fingerprints of what a run stands on and does not change: the base model and the data."""

import hashlib
import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

WHOLE = 2**20
"""Elements up to which a tensor is read whole."""
SAMPLE = 2**16
"""Elements read of a larger one, evenly spread: enough to tell two models apart, and quick for billions of weights."""
ROWS = 50_000
"""Rows up to which all are read; of more, so many evenly spread ones."""


def base_fingerprint(model: nn.Module, *, trained: Collection[nn.Parameter] = ()) -> str:
    """Return a sha256 of the weights below the adapters: the same before and after training, and for a fresh copy.

    Adapters, modules that are trained and saved beside them (such as a task head) and the parameters in ``trained`` do
    not enter. Where a base is sharded over processes, all of them call this together.
    """
    digest = hashlib.sha256()
    left_out = {id(parameter) for parameter in trained}
    for _, tensor in base_tensors(model):
        if id(tensor) in left_out:
            continue
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        flat = whole.detach().reshape(-1)
        if flat.numel() > WHOLE:
            flat = flat[torch.linspace(0, flat.numel() - 1, SAMPLE, dtype=torch.float64).long().to(flat.device)]
        # A copy: NumPy fixes the size of memory that it has looked at, and a sharded base is resized at every pass.
        digest.update(flat.to("cpu", copy=True).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return name and value of every weight that belongs to no adapter and to no head that is saved beside one."""
    return _base_tensors(model, "", set())


def _base_tensors(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, AuxiliaryTrainingWrapper):
        return
    if isinstance(module, BaseTunerLayer):
        yield from _base_tensors(module.get_base_layer(), prefix, seen)
        return
    transient = module._non_persistent_buffers_set
    buffers = [(name, buffer) for name, buffer in module.named_buffers(recurse=False) if name not in transient]
    tensors: list[tuple[str, Tensor]] = list(module.named_parameters(recurse=False))
    # Quantised layers keep their weights in buffers of whole numbers; statistics are buffers that change in training.
    tensors += [(name, buffer) for name, buffer in buffers if buffer.dim() and not buffer.is_floating_point()]
    for name, tensor in tensors:
        if id(tensor) not in seen:  # tied weights enter once
            seen.add(id(tensor))
            yield prefix + name, tensor
    for name, child in module.named_children():
        yield from _base_tensors(child, f"{prefix}{name}.", seen)


def data_fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of the rows in their order, and of their number; of more than 50,000, so many enter."""
    digest = hashlib.sha256(f"{len(rows)} ".encode())
    spread = range(len(rows)) if len(rows) <= ROWS else (index * len(rows) // ROWS for index in range(ROWS))
    for index in spread:
        digest.update(repr(sorted((name, _plain(value)) for name, value in rows[index].items())).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    # The repr of a large tensor leaves numbers out.
    return value.tolist() if hasattr(value, "tolist") else value


PACKAGES = ("bilora", "torch", "transformers", "peft", "betty-ml")


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that can change a number."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def command() -> str:
    """Return the words with which this process was started, as a shell takes them."""
    return shlex.join(sys.orig_argv)
