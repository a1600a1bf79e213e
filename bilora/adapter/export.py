"""Writes a trained adapter as a plain LoRA adapter, for stock PEFT and for servers of LoRA adapters."""

import json
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn

from bilora.adapter.config import BiloraConfig
from bilora.adapter.layer import BiloraLinear
from bilora.adapter.level_parameters import check_saved
from bilora.adapter.low_rank import low_rank_factors, pad_rank
from bilora.adapter.pruning import checked_ranks
from bilora.adapter.ranks import RankRule
from bilora.adapter.spectrum import adapted_layers, magnitudes
from bilora.errors import SettingsError, first_ten
from bilora.files.lock import refuse_links
from bilora.files.whole_folders import UNFINISHED, sha256_of, write_files
from bilora.settings.arguments import check_arguments

# Marks a folder as written by an export, so that a later one may replace it.
REPORT_NAME = "bilora_export.json"

# The key under which a folder with an adapter says what its tensor file was when it was written.
WEIGHTS_DIGEST = "weights_sha256"


def check_folder(folder: str | Path) -> Path:
    """Return the folder of an export as a path, after a look that nothing in it would be lost."""
    path = Path(folder)
    try:
        is_file = path.exists() and not path.is_dir()
    except OSError as error:  # of a name that is too long
        raise SettingsError(f"folder {str(folder)!r} cannot be made: {error.strerror}; name another one") from error
    if is_file:
        raise SettingsError(f"folder {str(folder)!r} is a file; give the name of a folder to write the adapter to")
    path.mkdir(parents=True, exist_ok=True)
    refuse_links(path)
    # An export that was killed may have left the folder in which it wrote.
    held = sorted(file.name for file in path.iterdir() if not file.name.startswith(UNFINISHED))
    if held and REPORT_NAME not in held:
        raise SettingsError(
            f"folder {str(folder)!r} holds {first_ten(held)} and is not an earlier export; "
            "give a new or an empty folder"
        )
    return path


def write_export(folder: Path, *, tensors: dict[str, Tensor], config: PeftConfig, report: dict[str, Any]) -> None:
    """Write weights, settings and report; each file appears whole or not at all."""

    def write(scratch: Path) -> None:
        # Tensors may share storage (tied heads) or lie transposed; the format takes neither.
        whole = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        save_file(whole, scratch / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        digest = {WEIGHTS_DIGEST: sha256_of(scratch / SAFETENSORS_WEIGHTS_NAME)}
        for name, content in ((CONFIG_NAME, config.to_dict()), (REPORT_NAME, report | digest)):
            # Sets, as of target_modules, have no order of their own: equal exports shall be equal files.
            text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, default=sorted)
            (scratch / name).write_text(text + "\n", encoding="utf-8")

    # The mark first: what follows an interruption is then still known as an export.
    write_files(folder, write, first=REPORT_NAME)


# lora_A, (rank, in), and lora_B, (out, rank), by full name of the module in the base model.
Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LoraExport:
    """The folder and the ranks of a written export.

    Args:
        folder: Where the adapter lies.
        ranks: Singular values kept, by module; a module with 0 is left out of the adapter.
        dropped: Singular values dropped, by module.
    """

    folder: Path
    ranks: dict[str, int]
    dropped: dict[str, int]


def export_lora(
    model: PeftModel,
    folder: str | Path,
    *,
    adapter_name: str = "default",
    tolerance: float = 1e-7,
    ranks: RankRule | None = None,
    uniform_rank: bool = False,
) -> LoraExport:
    """Write an adapter, with its task head, as a plain LoRA adapter that gives the same outputs.

    The whole update (alpha / r) P diag(s) Q of a layer goes into lora_B lora_A, so that r and alpha are equal in each
    layer and readers scale by one. Ranks differ between layers: singular values of zero are dropped, and layers without
    any other are left out.

    Args:
        model: A model with a BiLoRA adapter.
        folder: An empty or new folder, or one with an earlier export, which is replaced.
        adapter_name: Which adapter to write.
        tolerance: Fraction, in [0, 1), of a layer's largest singular value up to which others are dropped. The default
            is below the resolution of float32, so that nothing is lost; the result names the ranks that a larger one
            drops.
        ranks: How many singular values to keep of each layer, by the magnitudes of its learned terms, such as
            ``bilora.Energy(0.9)``; None for no limit. The largest singular values of the whole update are kept, which
            loses at most as much as dropping the smallest terms would.
        uniform_rank: Pad every layer with zeros to the largest rank, for readers that ignore ``rank_pattern``.

    Returns:
        The folder and the ranks.

    Raises:
        SettingsError: The model has no BiLoRA adapter of that name, the folder holds something else, a parameter is
            trained that would be saved nowhere, a weight of the adapter is not finite, or the rule gives ranks that the
            layers do not have.

    Example:
        >>> import tempfile
        >>> from peft import get_peft_model
        >>> config = BiloraConfig(r=2, target_modules=["0"], init_weights=False)
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_lora(model, folder).ranks
        {'0': 2}
    """
    check_arguments(export_lora, locals(), model=nn.Module)
    config = _bilora_config(model, adapter_name)
    if not 0.0 <= tolerance < 1.0:
        raise SettingsError(f"tolerance is {tolerance}; give a fraction of the largest value, in [0, 1)")
    check_saved(model)
    folder = check_folder(folder)
    layers = adapted_layers(model, adapter_name)
    for name, layer in layers.items():
        _refuse_not_finite(name, layer, adapter_name)
    sizes = {} if ranks is None else magnitudes(model, adapter=adapter_name)
    largest = {} if ranks is None else checked_ranks(ranks(sizes), sizes)
    factors = {name: _factors(layer, adapter_name, tolerance, largest.get(name)) for name, layer in layers.items()}
    kept = {name: A.shape[0] for name, (A, _) in factors.items()}
    dropped = {name: layer.bilora_E[adapter_name].numel() - kept[name] for name, layer in layers.items()}
    written = _live(factors, uniform_rank=uniform_rank)
    settings = _lora_config(model, config, written, transposed=any(layer.transposed for layer in layers.values()))
    tensors = _tensors(model, adapter_name, layers, written)
    write_export(folder, tensors=tensors, config=settings, report={"ranks": kept, "dropped": dropped})
    return LoraExport(folder=folder, ranks=kept, dropped=dropped)


def _bilora_config(model: PeftModel, adapter_name: str) -> BiloraConfig:
    configs = model.peft_config if isinstance(model, PeftModel) else {}
    config = configs.get(adapter_name)
    if isinstance(config, BiloraConfig):
        return config
    adapters = ", ".join(f"{name!r} ({other.peft_type})" for name, other in configs.items()) or "none"
    raise SettingsError(
        f"the model ({type(model).__name__}) has no BiLoRA adapter {adapter_name!r}; "
        f"its adapters: {adapters}; give a model from peft.get_peft_model or PeftModel.from_pretrained, "
        "and the name of one of them"
    )


def _factors(layer: BiloraLinear, adapter: str, tolerance: float, rank: int | None) -> tuple[Tensor, Tensor]:
    P, Q = layer.bilora_P[adapter], layer.bilora_Q[adapter]
    A, B = low_rank_factors(P, layer.coefficients(adapter), Q, tolerance=tolerance, rank=rank)
    # At least float32: factors rounded to bfloat16 would give other outputs than the adapter.
    dtype = torch.promote_types(P.dtype, torch.float32)
    return A.to(dtype), B.to(dtype)


def _refuse_not_finite(name: str, layer: BiloraLinear, adapter: str) -> None:
    tensors = (layer.bilora_P[adapter], layer.bilora_Q[adapter], layer.coefficients(adapter))
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise SettingsError(
            f"layer {name!r} of adapter {adapter!r} holds numbers that are not finite; "
            "export a checkpoint from before training diverged"
        )


def _live(factors: Factors, *, uniform_rank: bool) -> Factors:
    live = {name: (A, B) for name, (A, B) in factors.items() if A.shape[0]}
    if not live:
        warnings.warn(
            "the update is zero in every layer, as before training: the export acts as the base model does",
            stacklevel=3,
        )
        # PEFT loads no adapter without a layer.
        name, (A, B) = next(iter(factors.items()))
        live = {name: pad_rank(A, B, 1)}
    if not uniform_rank:
        return live
    largest = max(A.shape[0] for A, _ in live.values())
    return {name: pad_rank(A, B, largest) for name, (A, B) in live.items()}


def _lora_config(model: PeftModel, config: BiloraConfig, factors: Factors, *, transposed: bool) -> LoraConfig:
    base = model.get_base_model()
    ranks = {name: A.shape[0] for name, (A, _) in factors.items()}
    # The commonest rank as the default keeps the patterns short.
    [(common, _)] = Counter(ranks.values()).most_common(1)
    # PEFT reads the keys as regular expressions, and one without an anchor as the end of any longer name.
    pattern = {"^" + re.escape(name): rank for name, rank in ranks.items() if rank != common}
    # Where no task says it, the class to load the base model with, as PEFT itself saves it.
    class_of_base = {"base_model_class": type(base).__name__, "parent_library": type(base).__module__}
    return LoraConfig(
        task_type=config.task_type,
        auto_mapping=config.auto_mapping or (class_of_base if config.task_type is None else None),
        base_model_name_or_path=config.base_model_name_or_path or getattr(base, "name_or_path", None),
        revision=config.revision,
        modules_to_save=config.modules_to_save,
        # alpha = r in every layer, since the scale is in the factors already.
        r=common,
        lora_alpha=common,
        rank_pattern=dict(pattern),
        alpha_pattern=dict(pattern),
        target_modules=_targets(base, list(ranks)),
        fan_in_fan_out=transposed,
        inference_mode=True,
    )


def _targets(base: nn.Module, names: list[str]) -> list[str] | str:
    # PEFT takes a name in a list as the end of any longer one, too; only one regular expression is matched in full.
    ends = tuple("." + name for name in names)
    namesakes = [name for name, _ in base.named_modules() if name.endswith(ends) and name not in names]
    return "|".join(re.escape(name) for name in names) if namesakes else names


def _tensors(
    model: PeftModel, adapter_name: str, layers: dict[str, BiloraLinear], factors: Factors
) -> dict[str, Tensor]:
    # Verbatim what PEFT saves beside P, Q and E, such as the head, so that stock PEFT finds it where it looks.
    prefix = "base_model.model."
    pseudo_svd = {
        f"{prefix}{name}.{key.removesuffix(f'.{adapter_name}')}"
        for name, layer in layers.items()
        for key in layer.lower_parameters(adapter_name) | layer.upper_parameters(adapter_name)
    }
    saved = get_peft_model_state_dict(model, adapter_name=adapter_name)
    tensors: dict[str, Tensor] = {key: value for key, value in saved.items() if key not in pseudo_svd}
    for name, (A, B) in factors.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = A
        tensors[f"{prefix}{name}.lora_B.weight"] = B
    return tensors
