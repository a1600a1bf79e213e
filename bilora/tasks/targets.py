"""Labels that are numbers, trained on with mean 0 and deviation 1, and a head that is saved for the labels as given."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy
import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn import functional

from bilora.data.rows import Rows
from bilora.errors import DataError


@dataclass(frozen=True)
class TargetScale:
    """Mean and deviation of the labels of training rows: a label ``y`` is trained on as ``(y - mean) / deviation``."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, rows: Rows, field: str) -> Self:
        """Return the scale of the labels of some rows.

        Raises:
            DataError: All labels are the same, or one is too large.
        """
        with numpy.errstate(over="ignore"):
            # In float32, as a model is given them: there 1e9 and 1e9 + 1 are one number.
            labels = numpy.asarray(rows.labels, dtype=numpy.float32).astype(numpy.float64)
        if not numpy.isfinite(labels).all():
            raise DataError(f"{rows.source}: {field!r} has numbers beyond float32 (3.4e38); give it in another unit")
        if labels.min() == labels.max():
            raise DataError(
                f"{rows.source}: {field!r} is {labels[0]:g} in all {len(labels)} training rows, so that there is "
                "nothing to learn; name another --label-column, or give more rows"
            )
        # Sums that are exact do not depend on the machine: a run may be resumed on another one.
        mean = math.fsum(labels) / len(labels)
        return cls(mean, math.sqrt(math.fsum((labels - mean) ** 2) / len(labels)))


def standardise(model: PeftModel, scale: TargetScale, *, drawn: Sequence[str]) -> str:
    """Let a model of one number learn standardised labels, and return a sentence on it.

    Called without labels it answers in their units, as before. With labels the loss has their units too, but its
    gradient is that of the standardised ones. What is saved of the head answers in their units without any of this:
    its weights are ``deviation * W``, its bias ``deviation * b + mean``.

    Args:
        model: With the adapter on it.
        scale: Of the training rows.
        drawn: Full names of the modules of the base that were drawn anew; another head keeps its answers.
    """
    name, head = _last_trained(model)
    if head is None:
        return "the labels are trained on as they are: no plain linear layer that is trained gives the model's answer"
    if head.bias is None:
        # Nothing that is saved could hold a mean.
        scale = dataclasses.replace(scale, mean=0.0, deviation=math.hypot(scale.mean, scale.deviation))
    if name not in drawn:
        with torch.no_grad():
            head.weight.div_(scale.deviation)
            if head.bias is not None:
                head.bias.sub_(scale.mean).div_(scale.deviation)
    model.register_forward_pre_hook(_standard_labels(scale), with_kwargs=True)
    model.register_forward_hook(_given_units(scale), with_kwargs=True)
    head.register_state_dict_post_hook(_folded(scale))
    taken = (
        f"standardised for training, less {scale.mean:g} and divided by {scale.deviation:g}"
        if head.bias is not None
        else f"divided by {scale.deviation:g} for training, and not centred, as the head has no bias"
    )
    return f"the labels are {taken}; losses, metrics, answers and the saved head are in the units of the file"


def _last_trained(model: PeftModel) -> tuple[str, Any]:
    """Return name and module of what gives the answer, where it is one linear layer that is trained whole."""
    last: tuple[str, Any] = "", None
    for name, wrapper in model.get_base_model().named_modules():
        if not isinstance(wrapper, ModulesToSaveWrapper):
            continue
        for part, module in wrapper.modules_to_save[model.active_adapter].named_modules():
            if list(module.parameters(recurse=False)):
                last = f"{name}.{part}".removesuffix("."), module
    # By its very class: a subclass may compute something else with its weights.
    return last if type(last[1]) is nn.Linear and last[1].out_features == 1 else ("", None)


def _standard_labels(scale: TargetScale) -> Any:
    def before(module: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        if named.get("labels") is None:
            return None
        return inputs, {**named, "labels": (named["labels"] - scale.mean) / scale.deviation}

    return before


def _given_units(scale: TargetScale) -> Any:
    def after(module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> Any:
        logits, labels = output.logits.float(), named.get("labels")
        if labels is not None:
            squares = functional.mse_loss(logits.squeeze(-1), labels.float())
            # The value is in the units of the validation loss, and the gradient knows none: what a level adds to its
            # loss, clips and perturbs does not depend on whether the labels are metres or miles.
            added = output.loss - squares  # by the method, such as AdaLoRA's regularizer
            value = scale.deviation**2 * squares + added
            output.loss = value.detach() + (output.loss - output.loss.detach())
        output.logits = logits * scale.deviation + scale.mean
        return output

    return after


def _folded(scale: TargetScale) -> Any:
    def fold(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
        state[f"{prefix}weight"] = state[f"{prefix}weight"] * scale.deviation
        if f"{prefix}bias" in state:
            state[f"{prefix}bias"] = state[f"{prefix}bias"] * scale.deviation + scale.mean

    return fold
