"""A frozen base model cut over the processes, for models that are too large for one device."""

from __future__ import annotations

from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import fully_shard

from bilora.adapter.level_parameters import trainable_parameters
from bilora.engines.checks import check_equal_parameters
from bilora.errors import SettingsError
from bilora.processes.processes import Processes

ALONE = "shard_base shares the base model among processes, and there is one; start it with torchrun"


def shard_base(model: PeftModel, *, processes: Processes) -> None:
    """Keep in each process only its part of every frozen parameter, and gather a block's when it is run.

    FSDP2 (torch's ``fully_shard``) of every block of the model, and of the rest together. What is trained stays whole
    in each process, so that levels, optimizers, hypergradients and adapter files are those of a model that is not
    sharded. Products of second derivatives are by finite differences: torch frees what was gathered before a second
    backward pass could read it.

    Args:
        model: The model with its adapter, on the CPU or on the process's own GPU.
        processes: More than one.

    Raises:
        SettingsError: There is one process only.
        ProcessesError: The models differ.
    """
    if processes.count == 1:
        raise SettingsError(ALONE)
    check_equal_parameters(model, processes)
    whole = set(trainable_parameters(model).values())
    for block in _blocks(model, whole):
        fully_shard(block, ignored_params=whole)
    # The rest too goes back to its parts after every pass: torch's default keeps it whole until somebody asks for a
    # state dict, which the first process does alone when it saves, and the others would then no longer be in step.
    fully_shard(model, ignored_params=whole, reshard_after_forward=True)


def _blocks(model: nn.Module, whole: set[nn.Parameter]) -> list[nn.Module]:
    """Return the members of the outermost lists of modules, which are the layers of every transformer."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and module not in inside:
            found += [each for each in module if any(own not in whole for own in each.parameters())]
            inside |= set(module.modules())
    return found
