"""A frozen base model cut over the processes, for models that are too large for one device."""

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from bilora.errors import SettingsError
from bilora.processes.processes import Processes

ALONE = "shard_base shares the base model among processes, and there is one; start it with torchrun"


def shard_base(model: nn.Module, *, processes: Processes) -> None:
    """Keep in each process only its part of every frozen parameter, and gather a block when it is run."""
    # torch's fully_shard (FSDP2) frees the gathered parameters before a second backward pass could read them, so that
    # products of second derivatives are by finite differences.
    if processes.count == 1:
        raise SettingsError(ALONE)
    check_equal_parameters(model, processes)
    # What is trained stays whole in each process: levels, optimizers, hypergradients and adapter files are then those
    # of a model that is not sharded.
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for block in _blocks(model, trained):
        fully_shard(block, ignored_params=trained)
    # The rest too goes back to its parts after every pass: torch's default keeps it whole until somebody asks for a
    # state dict, which the first process does alone when it saves, and the others would then no longer be in step.
    fully_shard(model, ignored_params=trained, reshard_after_forward=True)


def _blocks(model: nn.Module, trained: set[nn.Parameter]) -> list[nn.Module]:
    # The members of the outermost lists of modules, which are the layers of every transformer; lists inside a layer, of
    # experts for one, are gathered with it.
    blocks: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and module not in inside:
            blocks += [block for block in module if any(weight not in trained for weight in block.parameters())]
            inside |= set(module.modules())
    return blocks


def is_sharded(model: nn.Module) -> bool:
    """Return whether parameters of the model are cut up among processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def check_equal_parameters(module: nn.Module, processes: Processes) -> None:
    """Refuse modules whose parameters differ between the processes; sharded parameters are not compared."""
    # Sums over the bits, read as whole numbers: few bytes to send, and no order of summation changes them.
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = {
        name: int(weight.detach().reshape(-1).view(kinds[weight.element_size()]).sum(dtype=torch.int64))
        for name, weight in module.named_parameters()
        if not isinstance(weight, DTensor)
    }
    processes.check_equal("the parameters", sums)
