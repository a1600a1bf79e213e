"""A frozen base model cut over the processes, for models that are too large for one device."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from bilora.errors import SettingsError
from bilora.processes.processes import Processes

ALONE = "shard_base shares the base model among processes, and there is one; start it with torchrun"


def shard_base(model: nn.Module, *, processes: Processes) -> None:
    """Keep in each process only its part of every frozen parameter, and gather a block when it is run.

    FSDP2 (torch's ``fully_shard``) of every block of the model, and of the rest together. Trained parameters stay
    whole in each process, so that levels, optimizers, hypergradients and adapter files are those of a model that is
    not sharded. Products of second derivatives are by finite differences: torch frees the gathered parameters before
    a second backward pass could read them.

    Args:
        model: The model with its adapter, on the CPU or on the GPU of this process.
        processes: More than one.

    Raises:
        SettingsError: There is one process only.
        ProcessesError: The models differ.
    """
    if processes.count == 1:
        raise SettingsError(ALONE)
    check_equal_parameters(model, processes)
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for block in _blocks(model, trained):
        fully_shard(block, ignored_params=trained)
    # The rest too goes back to its parts after every pass: torch's default keeps it whole until somebody asks for a
    # state dict, which the first process does alone when it saves, and the others would then no longer be in step.
    fully_shard(model, ignored_params=trained, reshard_after_forward=True)


def _blocks(model: nn.Module, trained: set[nn.Parameter]) -> list[nn.Module]:
    """Return the members of the outermost lists of modules, which are the layers of every transformer."""
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
    whole = {name: weight for name, weight in module.named_parameters() if not isinstance(weight, DTensor)}
    processes.check_equal("the parameters", {name: checksum(weight) for name, weight in whole.items()})


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Return a sum over the bits of a tensor, which no order of summation changes.

    Example:
        >>> checksum(torch.zeros(2)), checksum(torch.ones(2)) == checksum(torch.zeros(2))
        (0, False)
    """
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(tensor.element_size(), torch.int64)
    return int(tensor.contiguous().reshape(-1).view(kind).sum(dtype=torch.int64))
