"""The values of a model's parameters before a run, for the stages that start anew from them."""

from __future__ import annotations

from torch import Tensor, nn

from bilora.adapter.parameters import trainable_parameters
from bilora.engines.hypergradients.vectors import place


class StartValues:
    """A copy of everything trainable in a model, on the CPU.

    Args:
        model: The model, before its first step.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> start = StartValues(layer)
        >>> before = layer.weight.item()
        >>> _ = nn.init.constant_(layer.weight, 7.0)
        >>> start.put_back(dict(layer.named_parameters()))
        >>> layer.weight.item() == before
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self.values: dict[str, Tensor] = {
            name: each.detach().to("cpu", copy=True) for name, each in trainable_parameters(model).items()
        }

    def put_back(self, parameters: dict[str, nn.Parameter]) -> None:
        """Set parameters, given by their full names in the model, to what they were."""
        place(list(parameters.values()), [self.values[name] for name in parameters])
