"""A method's adapter on a loaded model, with everything that is new in the model trained."""

import dataclasses
from typing import Any

from peft import PeftModel
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from bilora.adapter.whole_modules import widen
from bilora.errors import SettingsError, first_ten
from bilora.models.pretrained import Loaded, first_line, quiet_peft
from bilora.problems.catalog import find_variant
from bilora.problems.variant import AdapterSettings

# What PEFT takes for the task head, and trains and saves whole; as in PEFT, ends of names decide.
PEFT_HEADS = ("classifier", "score")


def put_adapter(loaded: Loaded, method: str, settings: Any, *, task_type: str, steps: int) -> PeftModel:
    """Return the model with a method's adapter on it; ``steps`` are the run's, for methods that plan ahead."""
    asked, settings = settings, _with_modules_to_save(settings, loaded)
    # Listed now: where PEFT fails at a later layer, the ones before it are wrapped already, and called base_layer.
    layers = linear_layers(loaded.model)
    _refuse_names(loaded.model, method, asked)
    try:
        with quiet_peft():
            model = find_variant(method).adapt(loaded.model, settings, task_type=task_type, steps=steps)
    # PEFT's, such as target modules that the model does not have, or that are no layers for it.
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise _misfit(method, first_line(error), layers) from error
    config: Any = model.peft_config[model.active_adapter]
    if config.modules_to_save:
        # PEFT adds its heads to those given, so that some would stand twice in what is saved with the adapter.
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    modules = model.get_base_model().named_modules()
    trained = tuple(f"{name}." for name, module in modules if isinstance(module, AuxiliaryTrainingWrapper))
    # With a dot behind both: else layer.10 would count as a part of layer.1.
    if untrained := [name for name in loaded.new_modules if not f"{name}.".startswith(trained)]:
        raise SettingsError(
            f"method {method!r} would leave {first_ten(untrained)} of the model as drawn at random; name them as "
            "modules_to_save of the method"
        )
    widen(model)
    return model


def _misfit(method: str, reason: str, layers: list[str]) -> SettingsError:
    return SettingsError(
        f"method {method!r} cannot be put on the model: {reason}; linear layers of the model: {first_ten(layers)}; "
        "name some as target_modules of the method, or all-linear"
    )


def _refuse_names(model: nn.Module, method: str, settings: Any) -> None:
    """Refuse names that no module has, which PEFT passes over, and a rank that no layer has, which fills the memory."""
    if not isinstance(settings, AdapterSettings):
        return
    modules = [name for name, _ in model.named_modules()]
    for field in ("target_modules", "modules_to_save"):
        names = getattr(settings, field)
        nowhere = [name for name in names or () if not any(f".{module}".endswith(f".{name}") for module in modules)]
        # A text is a regular expression, of which PEFT tells that nothing matches.
        if nowhere and isinstance(names, list):
            raise _misfit(method, f"{field} names {first_ten(nowhere)}, which it has not", linear_layers(model))
    # Not of the weights, which are one long column in 4 bits of bitsandbytes.
    sizes = [
        min((module.in_features, module.out_features) if isinstance(module, nn.Linear) else module.weight.shape)
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    if sizes and settings.rank > max(sizes):
        raise SettingsError(
            f"method {method!r}: rank is {settings.rank:,}, and the layers of this model have {max(sizes):,} at most; "
            "8 to 64 are usual"
        )


def linear_layers(model: nn.Module) -> list[str]:
    """Return the last parts of the names of the layers that an adapter can be put on."""
    # GPT-2's layers are transformers' Conv1D: linear ones with the weight the other way round.
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return sorted({name.split(".")[-1] for name in layers})


def _with_modules_to_save(settings: Any, loaded: Loaded) -> Any:
    """Return the settings with head and new modules named, for settings that can name modules."""
    if not isinstance(settings, AdapterSettings):
        return settings
    # PEFT trains its own heads alone. Other new modules, such as DeBERTa's pooler or T5's classification_head, would
    # stay as they were drawn, so they are named to it.
    unknown = [name for name in loaded.new_modules if not any(part.endswith(PEFT_HEADS) for part in name.split("."))]
    # The head too: PEFT 0.21 keeps the adapters of all-linear off what is named, but names heads of token classifiers
    # too late, and wraps DistilBERT's pre_classifier for the end of its name alone.
    lasts = {name.split(".")[-1] for name, _ in loaded.model.named_modules()}
    heads = {last for last in lasts if last.endswith(PEFT_HEADS)}
    named = [*(settings.modules_to_save or []), *sorted(heads), *unknown]
    return dataclasses.replace(settings, modules_to_save=named) if named else settings
