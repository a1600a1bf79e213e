"""Adapters on the disk, with the fingerprint of the base model that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bilora.artifacts.fingerprint import base_fingerprint
from bilora.errors import CheckpointError
from bilora.files.formats import dump_json, load_json
from bilora.models.pretrained import quiet_peft

WEIGHTS = "adapter_model.safetensors"
FINGERPRINT = "base_fingerprint.json"


def save_adapter(model: PeftModel, folder: Path, *, fingerprint: str | None = None) -> Path:
    """Write an adapter as PEFT does, with the fingerprint of its base, and read it back to see that it is whole.

    Args:
        model: A model whose active adapter is saved, and those beside it.
        folder: Where to; ``PeftModel.from_pretrained`` reads it.
        fingerprint: Of the base, where it is known already.

    Returns:
        Where the active adapter is: PEFT puts one that is not called ``default`` into a folder of its name.

    Raises:
        CheckpointError: What lies on the disk is not what the model has.
    """
    with quiet_peft():
        model.save_pretrained(str(folder))
    name = str(model.active_adapter)
    folder = folder if name == "default" else folder / name
    said = {"base_sha256": fingerprint or base_fingerprint(model)}
    (folder / FINGERPRINT).write_text(dump_json(said), encoding="utf-8")
    _check_same(load_file(folder / WEIGHTS), get_peft_model_state_dict(model, adapter_name=name), folder)
    return folder


def load_adapter(base: nn.Module, folder: Path, *, is_trainable: bool = False) -> PeftModel:
    """Return a base model with an adapter from a folder, after checks that PEFT does not make.

    PEFT takes an adapter of another base with the same shapes, one whose weights are not finite, and one with
    weights missing (it warns) without an error.

    Args:
        base: The base model.
        folder: Written by :func:`save_adapter`, or by PEFT, which writes no fingerprint to compare.
        is_trainable: Whether to train on.

    Raises:
        CheckpointError: The adapter is not whole, not finite, or of another base.
    """
    weights = _read_weights(folder)
    bad = sorted(name for name, each in weights.items() if not torch.isfinite(each).all())
    if bad:
        raise CheckpointError(f"adapter {folder}: {len(bad)} weights are not finite, {bad[0]} among them")
    config = PeftConfig.from_pretrained(str(folder))
    with quiet_peft():
        model = PeftModel(base, config)  # an adapter of its own to compare names and shapes with, not yet loaded
        _check_names(weights, get_peft_model_state_dict(model), folder)
        model.load_adapter(str(folder), "default", is_trainable=is_trainable)
    check_base(model, folder)
    return model


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"adapter {folder}: {WEIGHTS} cannot be read: {error}") from error


def _check_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is left over" for name in found if name not in expected]
    faults += [
        f"{name} is {tuple(found[name].shape)}, the model has {tuple(each.shape)}"
        for name, each in expected.items()
        if name in found and found[name].shape != each.shape
    ]
    if faults:
        raise CheckpointError(f"adapter {folder} does not fit the model: {len(faults)} faults, such as {faults[0]}")


def check_base(model: PeftModel, folder: Path) -> None:
    """Refuse a model whose base is not the one that an adapter was trained on, as far as the adapter's folder says.

    Raises:
        CheckpointError: It is another one.
    """
    path = folder / FINGERPRINT
    if not path.exists():
        return  # of another tool
    if load_json(path)["base_sha256"] != base_fingerprint(model):
        raise CheckpointError(
            f"adapter {folder} was trained on another base model, whose weights have the same shapes as those of this "
            "one; load it on the model that it was trained on"
        )


def _check_same(written: Mapping[str, Tensor], own: Mapping[str, Tensor], folder: Path) -> None:
    if written.keys() != own.keys() or any(not torch.equal(written[name], own[name].cpu()) for name in own):
        raise CheckpointError(f"adapter {folder}: what was written is not what the model has")
