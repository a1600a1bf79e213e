"""From the value of a training step to one scalar loss and its parts for the log."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bilora.errors import SettingsError


def read_loss(output: Any, *, level: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the scalar loss, with its graph, and every other one-element tensor of a mapping, detached."""
    parts: dict[str, Tensor] = {}
    loss = output
    if isinstance(output, Mapping):
        loss = output.get("loss")
        # Detached: a part that is kept for the log would keep the graph of its step alive.
        parts = {
            key: value.detach() if value.dim() == 0 else value.detach().reshape(())
            for key, value in output.items()
            if key != "loss" and isinstance(value, Tensor) and value.numel() == 1
        }
    if not isinstance(loss, Tensor):
        raise SettingsError(
            f"training_step of level {level!r} returned {type(output).__name__} without a loss tensor; return "
            "the loss, or a mapping with the key 'loss' (transformers models give one when the batch has 'labels')"
        )
    if loss.numel() != 1:
        raise SettingsError(
            f"the loss of level {level!r} has shape {tuple(loss.shape)}; reduce it to one number, "
            "for example with .mean()"
        )
    # A view of a scalar would be a node more in the graph.
    return loss if loss.dim() == 0 else loss.reshape(()), parts
