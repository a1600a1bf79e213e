"""Weights of the classes in the loss, for training rows of which some classes have few."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bilora.errors import SettingsError, first_ten
from bilora.settings.lookup import did_you_mean

Loss = Callable[..., Tensor]

# ``none``, ``auto``, or a weight for classes by name; a class that is not named has the weight 1.
ClassWeights = str | dict[str, float]


def check_class_weights(setting: ClassWeights) -> list[str]:
    """Return what is wrong with a choice, as far as it can be told without the classes."""
    if isinstance(setting, str):
        allowed = "allowed: none, auto, or a mapping of class names to weights"
        return [] if setting in ("none", "auto") else [f"class_weights is {setting!r}; {allowed}"]
    return [
        f"class_weights: the weight of {name!r} is {weight}, it must be positive"
        for name, weight in setting.items()
        # Asked this way round, NaN fails too.
        if not 0 < weight < math.inf
    ]


def resolve_class_weights(setting: ClassWeights, counts: Mapping[str, int]) -> tuple[float, ...] | None:
    """Return the weight of each class, or None where the loss stays as it is."""
    if isinstance(setting, str):
        return _balanced(counts) if setting == "auto" else None
    if unknown := [name for name in setting if name not in counts]:
        raise SettingsError(
            f"class_weights names {unknown[0]!r}, which is no class; known: {first_ten(counts)}."
            f"{did_you_mean(unknown[0], counts)}"
        )
    return tuple(setting.get(name, 1.0) for name in counts)


def weigh_classes(model: nn.Module, loss: Loss, weights: Sequence[float]) -> RemovableHandle:
    """Let the model's loss of rows (or tokens) i be ``sum_i w_i l_i / sum_i w_i``, for every level that asks it."""
    # A mean by weight and not a sum: the loss keeps its size, and the learning rate its meaning.
    values = torch.tensor(weights)

    def weigh(module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> Any:
        labels = named.get("labels")
        if labels is None:
            return output
        # The difference is taken, so that what a method has added to the model's loss stays, as AdaLoRA's regularizer.
        added = output.loss - loss(output.logits, labels)
        output.loss = added + loss(output.logits, labels, values.to(output.logits))
        return output

    # A hook, since every level calls the model itself and takes the loss from its output.
    return model.register_forward_hook(weigh, with_kwargs=True)


def _balanced(counts: Mapping[str, int]) -> tuple[float, ...]:
    if empty := [name for name, count in counts.items() if not count]:
        raise SettingsError(
            f"class_weights is 'auto', but no training row has the class {empty[0]!r}; give weights by name, more rows "
            "or class_weights none"
        )
    # n / (k n_c), scikit-learn's "balanced" (King and Zeng 2001)
    whole = sum(counts.values())
    return tuple(whole / (len(counts) * count) for count in counts.values())
