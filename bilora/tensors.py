"""One tensor per parameter as a vector: its algebra, parameters moved and restored, and batches on a device."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# One tensor per parameter, in the order of the parameters.
Tensors = tuple[Tensor, ...]


def norm(vector: Tensors) -> float:
    """Return the Euclidean norm over all tensors together, computed in float64 for float64 tensors."""
    if not vector:
        return 0.0
    return float(torch.stack([in_widest_float(part) for part in torch._foreach_norm(list(vector))]).norm())


def dot(left: Tensors, right: Tensors) -> float:
    """Return the inner product over all tensors together."""
    return float(sum((in_widest_float(a) * in_widest_float(b)).sum() for a, b in zip(left, right, strict=True)))


def in_widest_float(tensor: Tensor) -> Tensor:
    """Return the tensor in float64, or in float32 on devices that have no float64 (MPS)."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def add(left: Tensors, right: Tensors, *, scale: float = 1.0) -> Tensors:
    """Return ``left + scale * right``."""
    return tuple(torch._foreach_add(list(left), list(right), alpha=scale))


def scaled(vector: Tensors, factors: Sequence[float] | float) -> Tensors:
    """Return the vector times one factor, or each tensor times its own factor."""
    if isinstance(factors, float):
        return tuple(torch._foreach_mul(list(vector), factors))
    return tuple(tensor * factor for tensor, factor in zip(vector, factors, strict=True))


def difference(left: Tensors, right: Tensors, *, over: float) -> Tensors:
    """Return ``(left - right) / over``."""
    return tuple(torch._foreach_div(torch._foreach_sub(list(left), list(right)), over))


def zeros_like(parameters: Sequence[Tensor]) -> Tensors:
    """Return a zero for every parameter."""
    return tuple(torch.zeros_like(parameter) for parameter in parameters)


def random_like(vector: Tensors, *, seed: int) -> Tensors:
    """Return normal numbers in the shapes of the vector."""
    # A separate generator: the random state of the run must not move.
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part) for part in vector)


def flatten(vector: Tensors) -> Tensor:
    """Return all tensors one after another, as one vector."""
    return torch.cat([part.reshape(-1) for part in vector])


def split_like(flat: Tensor, vector: Tensors) -> Tensors:
    """Return the values of ``flat`` in the shapes of the vector that :func:`flatten` was given."""
    pieces = torch.split(flat, [part.numel() for part in vector])
    return tuple(piece.reshape(part.shape).to(part.dtype) for piece, part in zip(pieces, vector, strict=True))


@contextmanager
def restored(parameters: Sequence[Tensor]) -> Iterator[Tensors]:
    """Run the block with a copy of the parameters at hand, and set them back to it bit for bit, also on an error."""
    # From the copy, not by adding back: (V + eps x) - eps x is not V in floating point.
    copy = tuple(parameter.detach().clone() for parameter in parameters)
    try:
        yield copy
    finally:
        put(parameters, copy)


def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write the values into the parameters, without a trace in any graph."""
    with torch.no_grad():
        torch._foreach_copy_([parameter.detach() for parameter in parameters], list(values))


def gradient_norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the Euclidean norm over all the tensors together as a scalar tensor; None counts as zero."""
    # torch.nn.utils.get_total_norm gives the same at three times the Python time, and this runs in every step.
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        return torch.zeros(())
    norms = torch._foreach_norm(present)
    # The layers of a model may lie on several devices, and torch.stack takes tensors of one. Rarely so, and part.to
    # takes longer than to compare.
    if any(part.device != norms[0].device for part in norms):
        norms = tuple(part.to(norms[0].device) for part in norms)
    # A tensor, not a float: reading it would wait for the device.
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return the gradient with the strides of its parameter."""
    # torch's fused optimizers (2.13, CPU) walk over both as they lie in memory and compare no strides: a parameter
    # would be moved along a gradient whose entries have changed places. backward() lays gradients out like their
    # parameters, torch.autograd.grad gives them as they come, transposed where a product was.
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)


def to_device(batch: Any, device: torch.device) -> Any:
    """Return ``batch`` with every tensor in it on ``device``, in new containers, and everything else as it is."""
    # New containers, so that a loader that hands out a batch twice does not find it moved. Mappings, transformers'
    # BatchEncoding among them, become plain dicts; lists and tuples keep their type.
    if isinstance(batch, Tensor):
        # Where a loader pins its memory, the copy runs beside the computation.
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple):
        moved = [to_device(value, device) for value in batch]
        # A named tuple takes its fields one by one, a plain tuple takes an iterable.
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    if isinstance(batch, list):
        return [to_device(value, device) for value in batch]
    return batch
