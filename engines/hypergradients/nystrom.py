"""The inverse Hessian by a low-rank sketch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bilora.engines.hypergradients.implicit import ImplicitHypergradient, Point
from bilora.errors import DivergedError, SettingsError
from bilora.problems.replay.lower_step import LowerStep
from bilora.tensors import Tensors, flatten, split_like


@dataclass(frozen=True)
class Nystrom(ImplicitHypergradient):
    """``w = (H_k + damping I)^-1 v``, ``H_k = H S (S^T H S)^+ (H S)^T`` (Hataya and Yamada, AISTATS 2023)."""

    # Columns of S, which is random and orthonormal, (parameters, rank); each costs one Hessian product.
    rank: int = 5
    # Added to every eigenvalue; it alone acts outside the sketch, where w = v / damping. With a low rank a small one
    # therefore makes w very long: take one of the size of the eigenvalues that are left out.
    damping: float = 1e-2
    # Of the sketch, which has a generator of its own.
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        faults = []
        if self.rank < 1:
            faults.append(f"rank is {self.rank}; it must be at least 1")
        if not 0 < self.damping < math.inf:
            faults.append(f"damping is {self.damping}; it must be positive")
        if faults:
            raise SettingsError("nystrom: " + "; ".join(faults))

    def solve(self, vector: Tensors, point: Point, step: LowerStep) -> Tensors:
        """Return w."""
        flat = flatten(vector)
        # In float32 at least: neither QR nor eigenvalues exist in half precision.
        flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
        sketch = self._sketch(flat)
        images = [flatten(point.hessian(split_like(column, vector))).to(flat) for column in sketch.T]
        columns = torch.stack(images, dim=1)  # H S, (parameters, rank)
        if not torch.isfinite(columns).all():  # torch's eigh would end in an error of its own
            raise DivergedError("nystrom: a product of the Hessian is not finite; no parameter was stepped")
        basis, eigenvalues = _sketched_eigenvectors(sketch, columns)
        inside = basis.T @ flat
        # (H_k + damping I)^-1 by Woodbury: 1 / (lambda + damping) inside the sketch, 1 / damping outside.
        outside = (flat - basis @ inside) / self.damping
        return split_like(basis @ (inside / (eigenvalues + self.damping)) + outside, vector)

    def _sketch(self, flat: Tensor) -> Tensor:
        # Not more columns than dimensions: QR would return fewer than asked for.
        columns = min(self.rank, flat.numel())
        # On the CPU and in float64, so that one seed gives the same sketch on every device.
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(flat.numel(), columns, generator=generator, dtype=torch.float64)
        orthonormal: Tensor = torch.linalg.qr(drawn).Q
        return orthonormal.to(flat)


def _sketched_eigenvectors(sketch: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvectors ``(parameters, k)`` and eigenvalues ``(k,)`` of ``Y (S^T Y)^+ Y^T`` with Y = H S."""
    core = sketch.T @ images
    # S^T H S is symmetric, but finite differences and rounding are not.
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    # Eigenvalues below this have no digit left after rounding; negative ones are curvature downwards, left out so that
    # the inverse is always positive.
    kept = values > values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    # root root^T = Y (S^T Y)^+ Y^T, so that its left singular vectors are the eigenvectors of H_k.
    root = images @ (vectors[:, kept] / values[kept].sqrt())
    basis, singular, _ = torch.linalg.svd(root, full_matrices=False)
    return basis, singular.square()
