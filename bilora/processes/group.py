"""Several processes on ``torch.distributed``, one per device, as torchrun starts them."""

import atexit
import datetime
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store

from bilora.errors import BiloraError, ProcessesError, SettingsError
from bilora.processes.devices import choose_device
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.tensors import Tensors

Result = TypeVar("Result")

# Seconds that a process waits for another one before it gives up, and seconds in which every process that is left must
# answer, once one is missing.
TIMEOUT, ROLL_CALL = 600.0, 10.0
HERE = "bilora-is-left-"
# A second call returns the same, whatever it asks for: torch has one default group per process too.
_JOINED: list[Processes] = []


class ProcessGroup(Processes):
    """The processes of torch's default group, with ``timeout`` seconds for a small message."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()
        # Small messages that are no tensors go past the GPU.
        self._small = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout))
        self._roll = _get_default_store()

    def averaged(self, tensors: Sequence[Tensor]) -> Tensors:
        """Return the means, found in one message."""
        # One, since a message costs more than its bytes: a step of a small adapter would wait once a parameter.
        if not tensors:
            return ()
        dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
        flat = torch.cat([tensor.detach().reshape(-1).to(tensors[0].device, dtype) for tensor in tensors])
        with self._lost_named():
            dist.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return tuple(part.view(tensor.shape).to(tensor) for part, tensor in zip(parts, tensors, strict=True))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up anywhere."""
        up = torch.tensor([int(flag)])
        with self._lost_named():
            dist.all_reduce(up, op=dist.ReduceOp.MAX, group=self._small)
        return bool(up)

    def gathered(self, value: Any) -> list[Any]:
        """Return every process's value."""
        values: list[Any] = [None] * self.count
        with self._lost_named():
            dist.all_gather_object(values, value, group=self._small)
        return values

    def first_only(self, work: Callable[[], Result]) -> Result:
        """Work in the first process; send the others its result, or its error."""
        message: list[Any] = [None]
        if self.is_first:
            try:
                message = [(work(), None)]
            # Any other error is a fault of ours: it ends this process, and the others find it lost.
            except BiloraError as error:
                message = [(None, error)]
        with self._lost_named():
            dist.broadcast_object_list(message, src=0, group=self._small)
        result, raised = message[0]
        if raised is not None:
            raise raised
        return result  # type: ignore[no-any-return]

    @contextmanager
    def _lost_named(self) -> Iterator[None]:
        # A message that failed says at most that somebody is gone; its user needs to know who.
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's
            lost = ", ".join(str(rank) for rank in self._lost())
            what = f"process {lost} of {self.count} is lost" if lost else f"the {self.count} processes lost touch"
            raise ProcessesError(
                f"{what}, so process {self.rank} stops too; see what was printed by it last, or how its machine is"
            ) from error

    def _lost(self) -> list[int]:
        # The roll: each process that is left writes its rank into the store of the launcher, past the broken group.
        try:
            self._roll.set(f"{HERE}{self.rank}", "here")
        except RuntimeError:
            return [0]  # it, or its launcher, holds the roll
        lost = []
        for rank in range(self.count):
            try:
                self._roll.wait([f"{HERE}{rank}"], datetime.timedelta(seconds=ROLL_CALL))
            except RuntimeError:
                lost.append(rank)
        return lost


def join_processes(*, device: str = "auto", timeout: float = TIMEOUT) -> Processes:
    """Return the processes that torchrun started together with this one, ready to talk; one alone without torchrun."""
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ONE_PROCESS
    if not _JOINED:
        backend = _take_device(device)
        # A group that the user's script, or another library, has made is used as it is.
        if not dist.is_initialized():
            dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
            atexit.register(dist.destroy_process_group)
        _JOINED.append(ONE_PROCESS if dist.get_world_size() == 1 else ProcessGroup(timeout=timeout))
    return _JOINED[0]


def _take_device(name: str) -> str:
    device = choose_device(name)
    if device.type == "cpu":
        return "gloo"
    if device.type != "cuda" or device.index is not None:
        raise SettingsError(f"device is {str(device)!r}; several processes take cpu, or cuda for a GPU each")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise SettingsError(
            f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; start as "
            "many processes as GPUs, or set device to cpu"
        )
    torch.cuda.set_device(local)
    return "nccl"
