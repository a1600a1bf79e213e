"""Type aliases used across the library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
"""One tensor a parameter, in the order of the parameters."""


def norm(vector: Tensors) -> float:
    """Return the Euclidean norm over all tensors together, computed in float64 for float64 tensors.

    Example:
        >>> norm((torch.tensor([3.0]), torch.tensor([4.0])))
        5.0
    """
    if not vector:
        return 0.0
    norms = [in_widest_float(each) for each in torch._foreach_norm(list(vector))]
    return float(torch.stack(norms).norm())


def dot(left: Tensors, right: Tensors) -> float:
    """Return the inner product over all tensors together.

    Example:
        >>> dot((torch.ones(2), torch.ones(1)), (torch.ones(2), 3 * torch.ones(1)))
        5.0
    """
    return float(sum((in_widest_float(a) * in_widest_float(b)).sum() for a, b in zip(left, right, strict=True)))


def in_widest_float(tensor: Tensor) -> Tensor:
    """Return the tensor in float64, or in float32 on devices that have no float64 (MPS).

    Example:
        >>> in_widest_float(torch.ones(1)).dtype
        torch.float64
    """
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def add(left: Tensors, right: Tensors, *, scale: float = 1.0) -> Tensors:
    """Return ``left + scale * right``.

    Example:
        >>> add((torch.ones(1),), (torch.ones(1),), scale=2.0)
        (tensor([3.]),)
    """
    return tuple(torch._foreach_add(list(left), list(right), alpha=scale))


def flatten(vector: Tensors) -> Tensor:
    """Return all tensors one after another, as one vector.

    Example:
        >>> flatten((torch.ones(1, 2), torch.zeros(1)))
        tensor([1., 1., 0.])
    """
    return torch.cat([each.reshape(-1) for each in vector])


def split_like(flat: Tensor, vector: Tensors) -> Tensors:
    """Return what :func:`flatten` was given, with the values of ``flat``.

    Example:
        >>> split_like(torch.tensor([1.0, 2.0, 3.0]), (torch.ones(1, 2), torch.zeros(1)))
        (tensor([[1., 2.]]), tensor([3.]))
    """
    parts = torch.split(flat, [each.numel() for each in vector])
    return tuple(part.reshape(each.shape).to(each.dtype) for part, each in zip(parts, vector, strict=True))


def random_like(vector: Tensors, *, seed: int) -> Tensors:
    """Return normal numbers from a generator of its own, so that no random state of the run moves.

    Example:
        >>> random_like((torch.ones(2),), seed=0)[0].shape
        torch.Size([2])
    """
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(each.shape, generator=generator, dtype=torch.float64).to(each) for each in vector)


def scaled(vector: Tensors, factors: Sequence[float] | float) -> Tensors:
    """Return the vector times one factor, or each tensor times its own.

    Example:
        >>> scaled((torch.ones(1), torch.ones(1)), [2.0, 3.0])
        (tensor([2.]), tensor([3.]))
    """
    if isinstance(factors, float):
        return tuple(torch._foreach_mul(list(vector), factors))
    return tuple(each * factor for each, factor in zip(vector, factors, strict=True))


def difference(left: Tensors, right: Tensors, *, over: float) -> Tensors:
    """Return ``(left - right) / over``.

    Example:
        >>> difference((torch.tensor([3.0]),), (torch.tensor([1.0]),), over=2.0)
        (tensor([1.]),)
    """
    return tuple(torch._foreach_div(torch._foreach_sub(list(left), list(right)), over))


def zeros_like(parameters: Sequence[Tensor]) -> Tensors:
    """Return a zero for every parameter.

    Example:
        >>> zeros_like([torch.ones(2)])
        (tensor([0., 0.]),)
    """
    return tuple(torch.zeros_like(each) for each in parameters)


@contextmanager
def restored(parameters: Sequence[Tensor]) -> Iterator[Tensors]:
    """Run the block with a copy of the parameters at hand, and set them back to it bit for bit, come what may.

    Example:
        >>> weight = torch.ones(1)
        >>> with restored([weight]) as (copy,):
        ...     _ = weight.add_(5)
        >>> weight
        tensor([1.])
    """
    copy = tuple(each.detach().clone() for each in parameters)
    try:
        yield copy
    finally:
        put(parameters, copy)


def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write the values into the parameters, without a trace in any graph.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> put([weight], [torch.zeros(1)])
        >>> weight.item()
        0.0
    """
    with torch.no_grad():
        torch._foreach_copy_([each.detach() for each in parameters], list(values))


def gradient_norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the Euclidean norm over all the tensors together, without waiting for a device; None counts as zero.

    What ``torch.nn.utils.get_total_norm`` returns, at a third of its Python time, which is in every step.

    Args:
        gradients: Any shapes.

    Returns:
        A scalar on the device of the first tensor.

    Example:
        >>> gradient_norm([torch.tensor([3.0]), None, torch.tensor([[4.0]])])
        tensor(5.)
    """
    present = [each for each in gradients if each is not None]
    if not present:
        return torch.zeros(())
    norms = torch._foreach_norm(present)
    device = norms[0].device
    if any(each.device != device for each in norms):
        norms = tuple(each.to(device) for each in norms)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return the gradient with the strides of its parameter.

    torch's fused optimizers (2.13, CPU) walk over both as they lie in memory and compare no strides, so that with
    others a parameter would be moved along a gradient whose entries have changed places. ``backward()`` lays gradients
    out like their parameters; ``torch.autograd.grad`` gives them as they come, transposed where a product was.

    Args:
        gradient: Of the shape of the parameter.
        parameter: The parameter.

    Example:
        >>> laid_out_like(torch.ones(3, 2).T, torch.zeros(2, 3)).stride()
        (3, 1)
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)


def to_device(batch: Any, device: torch.device) -> Any:
    """Return ``batch`` with every tensor in it on ``device``; containers are new, so nothing changes in place.

    Mappings (``BatchEncoding`` among them) become plain dicts, named tuples and other tuples keep their
    type, and whatever is not a tensor or a container is passed on as it is.

    Args:
        batch: A tensor, or mappings, lists and tuples of them, to any depth.
        device: Where the model is.

    Returns:
        The same structure on the device.

    Example:
        >>> batch = {"x": torch.ones(2), "more": (torch.zeros(1), "text")}
        >>> moved = to_device(batch, torch.device("cpu"))
        >>> moved["more"][1], moved is batch
        ('text', False)
    """
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple):
        moved = [to_device(value, device) for value in batch]
        # A named tuple takes its fields one by one, a plain tuple takes an iterable.
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    if isinstance(batch, list):
        return [to_device(value, device) for value in batch]
    return batch
