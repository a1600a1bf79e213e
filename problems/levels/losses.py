"""From the value of a training step to one scalar loss and its parts for the log."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

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


IGNORED = -100
"""The label that enters no loss, as torch's cross entropy has it."""


def terms_of(batch: Any, module: nn.Module) -> float:
    """Return how many terms the mean loss of a batch has: labelled tokens where every token has a label, else rows."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor):
        values = (
            batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else (batch,)
        )
        return float(next((len(value) for value in values if isinstance(value, Tensor) and value.dim()), 1))
    if labels.is_floating_point() or labels.dim() == 0:
        return float(len(labels) if labels.dim() else 1)
    if labels.dim() > 1 and _predicts_next(module):
        labels = labels[:, 1:]  # the logits of a token are of the one behind it, so that the first has none
    return float((labels != IGNORED).sum())


def _predicts_next(module: nn.Module) -> bool:
    """Return whether the labels are moved by one in the model's own loss, as in causal language models."""
    owner: Any = module
    model = owner.get_base_model() if hasattr(owner, "get_base_model") else owner
    config = getattr(model, "config", None)
    # transformers takes the loss of a causal model for every name that it knows no other loss for.
    kind = getattr(model, "loss_type", None)
    return config is not None and not config.is_encoder_decoder and kind in (None, "ForCausalLM")
