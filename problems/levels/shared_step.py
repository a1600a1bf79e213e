"""What the processes of a run tell each other at an optimizer step: one message a level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bilora.aliases import Tensors
from bilora.problems.levels.gradient_layout import laid_out_like
from bilora.processes.alone import Processes


def share_gradients(
    parameters: Sequence[nn.Parameter], means: Tensor, more: Sequence[Tensor], processes: Processes
) -> tuple[Tensor, Tensors]:
    """Set every ``.grad`` to its mean over the processes, and return the means of the other tensors.

    Args:
        parameters: The parameters of a level.
        means: The loss and its parts in this process.
        more: Other tensors to average in the same message.
        processes: The processes; for one alone nothing changes.

    Returns:
        ``means`` and ``more``, averaged.

    Example:
        >>> weight = nn.Parameter(torch.ones(1))
        >>> share_gradients([weight], torch.ones(1), (), Processes())
        (tensor([1.]), ())
    """
    if processes.count == 1:
        return means, tuple(more)
    present = [each.grad is not None for each in parameters]
    own = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    flags = torch.tensor(present, dtype=torch.float32, device=means.device)
    *averaged, used, means = processes.averaged([*own, *more, flags, means])
    for index, parameter in enumerate(parameters):
        # What no process used stays without a gradient, so that the optimizer passes it over as it does alone.
        if present[index] or used[index] > 0:
            parameter.grad = laid_out_like(averaged[index], parameter)
    return means, tuple(averaged[len(parameters) :])
