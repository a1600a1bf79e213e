"""Products of bf16 matrices on a CPU without instructions for them, much faster than torch has them there.

Such instructions multiply bf16 numbers exactly and add up in float32; so do products of the same numbers in float32, in
another order. Only what is rounded in the last digit of a sum differs, as it does between any two machines.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilora.processes.devices import has_bf16

Product = Callable[..., Tensor]


def _in_float32(product: Any, sizes: Callable[..., tuple[int, ...]]) -> Product:
    """Return a kernel of a product, whose factors are the last two arguments."""

    # `out=` is another operator than the one that is replaced, which would call itself.
    def kernel(*tensors: Tensor, **scales: Any) -> Tensor:
        kind = tensors[-1].dtype
        if kind is torch.bfloat16:
            tensors = tuple(tensor.float() for tensor in tensors)
        empty = tensors[-1].new_empty(sizes(*tensors[-2:]))
        result: Tensor = product.out(*tensors, **scales, out=empty)
        return result.to(kind)

    return kernel


KERNELS: dict[str, Product] = {
    "mm": _in_float32(torch.ops.aten.mm, lambda a, b: (a.shape[0], b.shape[1])),
    "addmm": _in_float32(torch.ops.aten.addmm, lambda a, b: (a.shape[0], b.shape[1])),
    "bmm": _in_float32(torch.ops.aten.bmm, lambda a, b: (a.shape[0], a.shape[1], b.shape[2])),
}

# The kernels are torch's own again when it is collected.
_replaced: list[torch.library.Library] = []


def replace_where_missing() -> bool:
    """Replace the products of this process where its CPU lacks the instructions; return whether it does."""
    if has_bf16(torch.device("cpu")):
        return False
    if not _replaced:
        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        with warnings.catch_warnings():
            # That a kernel is replaced is what this is for.
            warnings.simplefilter("ignore", UserWarning)
            for name, kernel in KERNELS.items():
                library.impl(name, kernel, "CPU")  # type: ignore[no-untyped-call]
        _replaced.append(library)
    return True
