"""A method's adapter on a loaded model, with everything that is new in the model trained."""

import dataclasses
from typing import Any

from peft import PeftModel
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from bilora.errors import SettingsError
from bilora.models.pretrained import Loaded, quiet_peft
from bilora.problems.catalog import find_variant
from bilora.problems.variant import AdapterSettings

PEFT_HEADS = ("classifier", "score")
"""What PEFT takes for the task head, and trains and saves whole."""


def put_adapter(loaded: Loaded, method: str, settings: Any, *, task_type: str, steps: int) -> PeftModel:
    """Return the model with a method's adapter on it.

    PEFT trains heads called ``classifier`` or ``score``; other new modules, such as DeBERTa's pooler or T5's
    ``classification_head``, would stay as they were drawn, so they are named to it.

    Args:
        loaded: The model.
        method: Name of the variant.
        settings: The variant's settings.
        task_type: PEFT's name for the kind of task.
        steps: Lower optimizer steps of the run, for methods that plan ahead.

    Raises:
        SettingsError: The model has no such target modules, or the method leaves a new module untrained; the linear
            layers of the model are listed.
    """
    named = _with_modules_to_save(settings, loaded)
    layers = linear_layers(loaded.model)
    try:
        with quiet_peft():
            model = find_variant(method).adapt(loaded.model, named, task_type=task_type, steps=steps)
    except (ValueError, TypeError) as error:  # PEFT's, such as target modules that the model does not have
        raise SettingsError(
            f"method {method!r} cannot be put on the model: {error}; linear layers of the model: "
            f"{', '.join(layers)}; name some as target_modules of the method, or all-linear"
        ) from error
    _name_once(model)
    left = _untrained(model, loaded.new_modules)
    if left:
        raise SettingsError(
            f"method {method!r} would leave {', '.join(left)} of the model as drawn at random; name them as "
            "modules_to_save of the method"
        )
    return model


def linear_layers(model: nn.Module) -> list[str]:
    """Return the last parts of the names of the layers that an adapter can be put on.

    Example:
        >>> linear_layers(nn.ModuleDict({"query": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}))
        ['query']
    """
    layers = [name for name, each in model.named_modules() if isinstance(each, nn.Linear | Conv1D)]
    return sorted({name.split(".")[-1] for name in layers})


def _with_modules_to_save(settings: Any, loaded: Loaded) -> Any:
    """Return the settings with head and new modules named, for settings that can name modules."""
    if not isinstance(settings, AdapterSettings):
        return settings
    # The head too: PEFT 0.21 keeps the adapters of all-linear off what is named, but names heads of token classifiers
    # too late, and wraps DistilBERT's pre_classifier for the end of its name alone.
    lasts = {name.split(".")[-1] for name, _ in loaded.model.named_modules()}
    heads = {last for last in lasts if last.endswith(PEFT_HEADS)}
    unknown = [name for name in loaded.new_modules if not _in_known_head(name)]
    named = [*(settings.modules_to_save or []), *sorted(heads), *unknown]
    return dataclasses.replace(settings, modules_to_save=named) if named else settings


def _name_once(model: PeftModel) -> None:
    """Take the second names out of what is saved with the adapter: PEFT adds its heads to those given."""
    config: Any = model.peft_config[model.active_adapter]
    if config.modules_to_save:
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))


def _in_known_head(name: str) -> bool:
    """Return whether a module is one of PEFT's heads, or a part of one; as in PEFT, ends of names decide."""
    return any(part.endswith(PEFT_HEADS) for part in name.split("."))


def _untrained(model: PeftModel, new: tuple[str, ...]) -> list[str]:
    base = model.get_base_model()
    wrapped = tuple(f"{name}." for name, each in base.named_modules() if isinstance(each, AuxiliaryTrainingWrapper))
    return [name for name in new if not f"{name}.".startswith(wrapped)]
