"""Type aliases used across the library."""

from __future__ import annotations

from torch import Tensor

Tensors = tuple[Tensor, ...]
"""One tensor a parameter, in the order of the parameters."""
