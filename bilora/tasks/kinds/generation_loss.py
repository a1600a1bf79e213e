"""The loss of a causal model on the answers of a set, without gradients."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bilora.data.collate import Collate
from bilora.data.to_device import to_device
from bilora.processes.alone import ONE_PROCESS, Processes
from bilora.processes.in_turn import taken_in_turn
from bilora.tasks.batches import make_loader
from bilora.tasks.generation.batches import IGNORED
from bilora.tasks.kinds.scoring import length_order

LOSS_BATCH = 16
"""Examples a batch: logits have a column for every word of the vocabulary."""


def token_loss(
    model: nn.Module,
    examples: Sequence[Mapping[str, Any]],
    collate: Collate,
    *,
    autocast_dtype: torch.dtype | None = None,
    processes: Processes = ONE_PROCESS,
) -> dict[str, float | None]:
    """Return ``loss``, the mean cross entropy over all labelled tokens of the set, and ``perplexity``, its exponential.

    The model is called without labels, so that what a method adds to its loss does not enter. It is left in the
    mode it was in.

    Args:
        model: A causal model whose output has ``.logits``, ``(batch, length, words)``.
        examples: From :func:`~bilora.tasks.generation.batches.encode_pairs`.
        collate: Makes a batch of some of them.
        autocast_dtype: The autocast type of the forward pass; None for none.
        processes: They take the batches in turn; each returns the numbers of the whole set.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    ordered = [examples[position] for position in length_order(examples)]
    loader = make_loader(ordered, batch_size=LOSS_BATCH, seed=0, collate=collate, shuffle=False)

    def summed(batch: Mapping[str, Any]) -> tuple[float, int]:
        moved = to_device(batch, device)
        labels = moved.pop("labels")[:, 1:]
        # Entered anew for each batch, as what is sent between two of them is not to be cast.
        casting = torch.autocast(device.type, dtype=autocast_dtype) if autocast_dtype else contextlib.nullcontext()
        with torch.no_grad(), casting:
            logits = model(**moved).logits[:, :-1].float()
            # The sum over a batch in float32, the sum over batches in float64.
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        return loss, int((labels != IGNORED).sum())

    try:
        found = list(taken_in_turn(loader, summed, processes))
    finally:
        model.train(was_training)
    total, count = sum(each for each, _ in found), sum(each for _, each in found)
    loss = total / count
    return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else None}
