"""Fingerprints of what a run stands on and does not change: the base model and the data."""

from __future__ import annotations

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
    """Return a hash of the weights below the adapters: the same before and after training, and for a fresh copy.

       Adapters and modules that are trained and saved beside them (such as a task head) do not enter. Tensors of more
       than 2^20 elements enter by 2^16 of them.
    Of a model
       that is sharded over processes, all of them call this together.

       Args:
           model: A model with or without adapters.
           trained: Parameters to leave out beside those of adapters and saved modules.

       Returns:
           A sha256, in hexadecimal.

       Example:
           >>> from peft import get_peft_model
           >>> from bilora import BiloraConfig
           >>> base = nn.Sequential(nn.Linear(4, 4))
           >>> before = base_fingerprint(base)
           >>> base_fingerprint(get_peft_model(base, BiloraConfig(r=2, target_modules=["0"]))) == before
           True
    """
    found = hashlib.sha256()
    left_out = {id(each) for each in trained}
    for _, each in base_tensors(model):
        if id(each) in left_out:
            continue
        found.update(f"{each.dtype} {tuple(each.shape)} ".encode())
        whole = each.full_tensor() if isinstance(each, DTensor) else each
        flat = whole.detach().reshape(-1)
        if flat.numel() > WHOLE:
            flat = flat[torch.linspace(0, flat.numel() - 1, SAMPLE, dtype=torch.float64).long().to(flat.device)]
        # A copy: what NumPy has looked at can no longer be resized, which a base that is sharded is at every pass.
        found.update(flat.to("cpu", copy=True).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return name and value of every weight that belongs to no adapter and to no head that is saved beside one.

    Buffers of whole numbers count as weights (quantised layers keep theirs there), statistics do not.
    """
    return _base_tensors(model, "", set())


def _base_tensors(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, AuxiliaryTrainingWrapper):
        return
    if isinstance(module, BaseTunerLayer):
        yield from _base_tensors(module.get_base_layer(), prefix, seen)
        return
    passing = module._non_persistent_buffers_set
    buffers = [(name, each) for name, each in module.named_buffers(recurse=False) if name not in passing]
    own: list[tuple[str, Tensor]] = list(module.named_parameters(recurse=False))
    own += [(name, each) for name, each in buffers if each.dim() and not each.is_floating_point()]
    for name, each in own:
        if id(each) not in seen:  # tied weights enter once
            seen.add(id(each))
            yield prefix + name, each
    for name, child in module.named_children():
        yield from _base_tensors(child, f"{prefix}{name}.", seen)


def data_fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of the rows in their order, and of their number.

    Args:
        rows: Mappings of numbers, strings, lists, tensors and arrays. Of more than 50,000 rows so many enter.

    Example:
        >>> data_fingerprint([{"input_ids": [1, 2]}]) == data_fingerprint([{"input_ids": [2, 1]}])
        False
    """
    found = hashlib.sha256(f"{len(rows)} ".encode())
    spread = range(len(rows)) if len(rows) <= ROWS else (index * len(rows) // ROWS for index in range(ROWS))
    for index in spread:
        row = rows[index]
        found.update(repr(sorted((name, _plain(value)) for name, value in row.items())).encode())
    return found.hexdigest()


def _plain(value: Any) -> Any:
    # The repr of a large tensor leaves numbers out.
    return value.tolist() if hasattr(value, "tolist") else value


PACKAGES = ("bilora", "torch", "transformers", "peft", "betty-ml")


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that can change a number.

    Example:
        >>> sorted(versions())
        ['betty-ml', 'bilora', 'peft', 'python', 'torch', 'transformers']
    """
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def command() -> str:
    """Return the words with which this process was started, as a shell takes them.

    Example:
        >>> bool(command())
        True
    """
    return shlex.join(sys.orig_argv)
