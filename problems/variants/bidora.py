"""BiDoRA (arXiv 2410.09758): direction of the weights below, their magnitude above."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import transpose
from torch import Tensor, nn

from bilora import trainable_parameters
from bilora.errors import LevelsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.variant import AdapterSettings, Variant
from bilora.problems.variants import dora


@dataclass(frozen=True)
class BidoraSettings(AdapterSettings):
    """An adapter's settings, and the weight of the regularizer.

    Args:
        gram: Weight of the Gram regularizer in the lower loss; the public code has 1e-5.
    """

    gram: float = 1e-5

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        return super().faults() + self.negative_faults("gram")


class BidoraLower(LowerProblem):
    """The factors A, B of the direction and the task head on D1, with a penalty on directions that overlap."""

    # ``W' = m (W0 + B A) / ||W0 + B A||`` with one norm per output. The adapter is PEFT's DoRA, which takes the norm
    # for a constant in its gradient (section 4.3 of DoRA) and scales B A by alpha / r.
    # Not verified: the regularizer as printed. It is quoted as ||V^T V - I||_F of the direction V; here V has unit
    # length, the norm is not squared, and layers are averaged, as in the public code's skeleton, which also leaves
    # alpha / r out.

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return everything trained but the magnitudes."""
        above = magnitude_parameters(self.module)
        return {name: value for name, value in trainable_parameters(self.module).items() if name not in above}

    def penalty(self) -> Tensor | None:
        """Return the weighted Gram regularizer."""
        weight = self.cfg.gram
        return weight * gram_penalty(self.module) if weight else None


class BidoraUpper(UpperProblem):
    """The magnitudes m on D2."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the magnitude vectors of all layers."""
        return magnitude_parameters(self.module)


def magnitude_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return DoRA's trainable magnitude vectors, by full name; refuse a model without any."""
    magnitudes = {
        f"{name}.lora_magnitude_vector.{adapter}.{key}": parameter
        for name, layer, adapter in _dora_layers(model)
        for key, parameter in layer.lora_magnitude_vector[adapter].named_parameters()
        if parameter.requires_grad
    }
    if not magnitudes:
        raise LevelsError("the model has no trainable DoRA magnitude; give it an adapter with use_dora=True")
    return magnitudes


def gram_penalty(model: nn.Module) -> Tensor:
    """Return ``||V V^T - I||_F`` with the directions as rows of V, averaged over the layers; a scalar."""
    # The formula's columns are rows here: PEFT keeps a weight as (out, in).
    return torch.stack([gram_distance(direction(layer, adapter)) for _, layer, adapter in _dora_layers(model)]).mean()


def direction(layer: Any, adapter: str) -> Tensor:
    """Return ``(W0 + B A) / ||W0 + B A||``, ``(out, in)`` with rows of length one."""
    # W0 is frozen, and a dequantised copy of it would be differentiated for nothing.
    weight = dequantize_module_weight(layer.get_base_layer()).detach()
    V = transpose(weight + layer.get_delta_weight(adapter), layer.fan_in_fan_out)
    return nn.functional.normalize(V, dim=1)


def gram_distance(V: Tensor) -> Tensor:
    """Return the Frobenius norm of ``V V^T - I``."""
    distance: Tensor = torch.linalg.matrix_norm(V @ V.mT - torch.eye(len(V), dtype=V.dtype, device=V.device))
    return distance


def _dora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer, str]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            for adapter in module.active_adapters:
                if adapter in module.lora_magnitude_vector:
                    yield name, module, adapter


VARIANT = Variant("bidora", BidoraLower, BidoraUpper, BidoraSettings, dora.VARIANT.adapt, ending="retrain")
