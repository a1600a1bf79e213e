"""Adapters on the disk, with the fingerprint of the base model that they were trained on."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import CONFIG_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from bilora.adapter.export import REPORT_NAME, WEIGHTS_DIGEST
from bilora.adapter.level_parameters import trainable_parameters
from bilora.adapter.peft_type import BILORA
from bilora.adapter.whole_modules import widen
from bilora.artifacts.fingerprint import base_fingerprint
from bilora.errors import SHORT, CheckpointError, DataError, SettingsError
from bilora.files.formats import dump_json, load_object
from bilora.files.whole_folders import sha256_of
from bilora.models.pretrained import quiet_peft
from bilora.tasks.kinds import TASK_FILE

WEIGHTS = "adapter_model.safetensors"
FINGERPRINT = "base_fingerprint.json"


def save_adapter(model: PeftModel, folder: Path, *, fingerprint: str | None = None) -> Path:
    """Write an adapter with the fingerprint of its base, read it back, and return where the active adapter is."""
    # PEFT reads a card that is there, whatever is in it; a new one is written where there is one to write.
    (folder / "README.md").unlink(missing_ok=True)
    with quiet_peft():
        model.save_pretrained(str(folder))
    name = str(model.active_adapter)
    # PEFT puts an adapter that is not called default into a folder of its name.
    folder = folder if name == "default" else folder / name
    about = {"base_sha256": fingerprint or base_fingerprint(model), WEIGHTS_DIGEST: sha256_of(folder / WEIGHTS)}
    (folder / FINGERPRINT).write_text(dump_json(about), encoding="utf-8")
    # A disk that lost a write, or a key that PEFT renamed on saving, is found now and not by whoever loads the file.
    written, weights = load_file(folder / WEIGHTS), get_peft_model_state_dict(model, adapter_name=name)
    same_names = written.keys() == weights.keys()
    if not same_names or any(not torch.equal(written[key], weights[key].cpu()) for key in weights):
        raise CheckpointError(f"adapter {folder}: the file does not hold the weights of the model; save it again")
    return folder


def read_about(path: Path) -> dict[str, Any]:
    """Return what a file beside an adapter says of it; nothing where there is no such file."""
    return load_object(path) if path.exists() else {}


# Of an adapter of BiLoRA, what no default may stand in for: the tensors would fit, and the answers would be others.
DECISIVE = ("alpha", "alpha_pattern", "formulation", "normalized", "r", "rank_pattern")


def read_config(folder: Path) -> PeftConfig:
    """Return the settings of the adapter in a folder."""
    path = folder / CONFIG_NAME
    content = load_object(path)
    kind = content.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        known = ", ".join(sorted(PEFT_TYPE_TO_CONFIG_MAPPING))
        raise DataError(f"{path}: peft_type is {SHORT.repr(kind)}; known: {known}; copy the file again")
    if missing := [name for name in DECISIVE if kind == BILORA and name not in content]:
        raise DataError(f"{path} lacks {', '.join(missing)}; copy the file again")
    try:
        config: PeftConfig = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError) as error:  # PEFT's and ours, of values that the method does not take
        raise DataError(f"{path} cannot be used: {error}; copy the file again") from error
    return config


# What safetensors calls the types of numbers that can be trained.
FLOATS = ("F16", "BF16", "F32", "F64")


def _types_of(path: Path) -> dict[str, str]:
    """Return the type of every tensor in a file, as its header says."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged: {error}; copy it again") from error


def load_adapter(base: nn.Module, folder: Path, *, base_name: str) -> PeftModel:
    """Return a base model with the adapter of a folder on it, frozen, after checks that PEFT does not make."""
    if not (folder / WEIGHTS).is_file():
        # PEFT would read a pickle of another name.
        raise DataError(f"the adapter in {folder} has no {WEIGHTS}; save it again with save_pretrained")
    config = read_config(folder)
    # Which other tools, and earlier versions, do not write.
    about = {name: read_about(folder / name) for name in (FINGERPRINT, REPORT_NAME)}
    for name, content in about.items():
        if content.get(WEIGHTS_DIGEST) not in (None, sha256_of(folder / WEIGHTS)):
            raise DataError(f"{folder / WEIGHTS} is not as it was written (its SHA-256 is not that in {name})")
    types = _types_of(folder / WEIGHTS)
    what = f"{folder / WEIGHTS}, read by {CONFIG_NAME} and {TASK_FILE} beside it, does not fit the model {base_name}"
    try:
        with quiet_peft(), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            # AdaLoRA's patterns name parameters; PEFT warns where it reads them as modules, and uses them further on.
            warnings.filterwarnings("ignore", message="The following rank_pattern keys", category=RuntimeWarning)
            model = PeftModel.from_pretrained(base, str(folder), config=config, is_trainable=True)
            if widen(model):
                # PEFT has rounded the numbers of the file to the type of the base.
                set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
            weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    except SettingsError as error:  # of our own part of it, with its cure
        raise DataError(f"{what}: {error}") from error
    # PEFT takes the values of other methods as they are, and fails somewhere where one has a wrong type.
    except (UserWarning, RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        # PEFT looks a head's weights up in the file, and says no more of one that is missing.
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        raise DataError(f"{what}: {reason}") from error
    # The embeddings of a larger vocabulary are weights of the base that stand in the file.
    left_over = load_peft_weights(str(folder)).keys() - weights.keys() - model.state_dict().keys()
    if left_over:
        raise DataError(f"{folder / WEIGHTS} has weights that nothing takes, {min(left_over)[:300]} among them")
    # A copy into a parameter would make other numbers of them.
    odd = [
        name
        for name, kind in types.items()
        if name in weights and (kind in FLOATS) != weights[name].is_floating_point()
    ]
    if odd:
        raise DataError(
            f"{folder / WEIGHTS} has {types[odd[0]]} numbers in {odd[0]}, and the model has {weights[odd[0]].dtype}; "
            "save the adapter again"
        )
    broken = [name for name, tensor in trainable_parameters(model).items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise DataError(f"{folder / WEIGHTS} has numbers that are not finite, in {broken[0]}; train it anew")
    base_sha256 = about[FINGERPRINT].get("base_sha256")
    if base_sha256 is not None and base_sha256 != base_fingerprint(model):
        raise CheckpointError(
            f"adapter {folder} was trained on another base model, whose weights have the same shapes as those of "
            f"{base_name} (their SHA-256 is not that in {FINGERPRINT}); load it on the model that it was trained on"
        )
    model.requires_grad_(False)
    return model.eval()
