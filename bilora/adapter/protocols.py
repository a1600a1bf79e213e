"""What a layer must be able to say to take part in two levels, and how to ask a model for such layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class AdaptedLayer(Protocol):
    """A layer that holds adapters, each under a name.

    The protocols have methods only: then whether a class answers one is looked up once, not once a training
    step.
    """

    def held_adapters(self) -> list[str]:
        """Return the names of all adapters in this layer."""

    def active_held_adapters(self) -> list[str]:
        """Return those of them that take part in the forward pass."""


@runtime_checkable
class LevelledLayer(AdaptedLayer, Protocol):
    """A layer that says which of its parameters belong to which level."""

    def lower_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """Return the lower level's parameters of an adapter, by their names below the layer."""

    def upper_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """Return the upper level's parameters of an adapter, by their names below the layer."""


@runtime_checkable
class PseudoSvdLayer(AdaptedLayer, Protocol):
    """A layer with an update P diag(s) Q."""

    def singular_values(self, adapter: str) -> Tensor:
        """Return s, ``(rank,)``."""

    def singular_vectors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Return P, ``(out, rank)``, and Q, ``(rank, in)``, as they enter the update."""

    def values_between_zero_and_one(self, adapter: str) -> bool:
        """Return whether every s_j lies in [0, 1]."""


def levelled_layers(model: nn.Module) -> Iterator[tuple[str, LevelledLayer]]:
    """Yield the layers that say which of their parameters are upper and which lower, with their full names.

    Example:
        >>> from peft import get_peft_model
        >>> from bilora import BiloraConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), BiloraConfig(r=2, target_modules=["0"]))
        >>> [name for name, _ in levelled_layers(model)]
        ['base_model.model.0']
    """
    for name, module in model.named_modules():
        if issubclass(type(module), LevelledLayer):
            yield name, cast(LevelledLayer, module)


def pseudo_svd_layers(model: nn.Module) -> Iterator[tuple[str, PseudoSvdLayer]]:
    """Yield the layers whose update is P diag(s) Q, with their full names.

    Example:
        >>> list(pseudo_svd_layers(nn.Linear(2, 2)))
        []
    """
    for name, module in model.named_modules():
        if issubclass(type(module), PseudoSvdLayer):
            yield name, cast(PseudoSvdLayer, module)
