"""Fingerprints of what a run stands on and does not change: the base model and the data."""

import hashlib
import importlib.metadata
import multiprocessing
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

# Elements up to which a tensor is read whole, and elements read of a larger one, evenly spread: enough to tell models
# apart, and quick for billions of weights.
WHOLE, SAMPLE = 2**20, 2**16
# Rows up to which all are read; of more, so many evenly spread ones.
ROWS = 50_000
PACKAGES = ("bilora", "torch", "transformers", "peft", "betty-ml")


def base_fingerprint(model: nn.Module, *, trained: Collection[nn.Parameter] = ()) -> str:
    """Return a sha256 of the weights below the adapters: the same before and after training, and for a fresh copy."""
    digest = hashlib.sha256()
    # What is trained beside the adapters changes from step to step, and would make every checkpoint another base.
    left_out = {id(parameter) for parameter in trained}
    for _, tensor in base_tensors(model):
        if id(tensor) in left_out:
            continue
        left_out.add(id(tensor))  # tied weights enter once
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        # Of a base that is sharded over processes: a gathering, so all of them call this together.
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        # Of torchao: its tensors have a shape and no memory of their own to look at.
        whole = whole.dequantize() if hasattr(type(whole), "__tensor_flatten__") else whole
        flat = whole.detach().reshape(-1)
        if flat.numel() > WHOLE:
            flat = flat[torch.linspace(0, flat.numel() - 1, SAMPLE, dtype=torch.float64).long().to(flat.device)]
        # A copy: NumPy fixes the size of memory that it has looked at, and a sharded base is resized at every pass.
        digest.update(flat.to("cpu", copy=True).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every weight that belongs to no adapter and to no head that is saved beside one."""
    if isinstance(module, AuxiliaryTrainingWrapper):  # a head that is trained and saved beside the adapter
        return
    if isinstance(module, BaseTunerLayer):
        yield from base_tensors(module.get_base_layer(), prefix)
        return
    transient = module._non_persistent_buffers_set
    buffers = [(name, buffer) for name, buffer in module.named_buffers(recurse=False) if name not in transient]
    tensors: list[tuple[str, Tensor]] = list(module.named_parameters(recurse=False))
    # Quantised layers keep their weights in buffers of whole numbers; statistics are buffers that change in training.
    tensors += [(name, buffer) for name, buffer in buffers if buffer.dim() and not buffer.is_floating_point()]
    yield from ((prefix + name, tensor) for name, tensor in tensors)
    for name, child in module.named_children():
        yield from base_tensors(child, f"{prefix}{name}.")


def data_fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of the rows in their order, and of their number; of more than 50,000, so many enter."""
    # The number too: of many rows two lengths may be sampled alike.
    digest = hashlib.sha256(f"{len(rows)} ".encode())
    spread = range(len(rows)) if len(rows) <= ROWS else (index * len(rows) // ROWS for index in range(ROWS))
    for index in spread:
        # Lists, not tensors: the repr of a large tensor leaves numbers out.
        plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in rows[index].items()}
        digest.update(repr(sorted(plain.items())).encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that can change a number."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def command() -> str:
    """Return the words with which this process was started, or the one that it helps, as a shell takes them."""
    # A helper has the arguments of the process that a person started, behind words of its own that start nothing.
    return shlex.join(sys.orig_argv if multiprocessing.parent_process() is None else sys.argv)
