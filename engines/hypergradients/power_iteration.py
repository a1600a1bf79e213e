"""The largest eigenvalue of the lower Hessian."""

from __future__ import annotations

from bilora.aliases import Tensors
from bilora.engines.hypergradients.products import Point
from bilora.engines.hypergradients.vectors import norm, random_like, scaled
from bilora.errors import DivergedError


def largest_eigenvalue(point: Point, *, like: Tensors, iterations: int, seed: int = 0) -> float:
    """Return the norm of H x / |x| after some power iterations: the eigenvalue of largest size, from below.

    Args:
        point: Where the Hessian products are taken.
        like: Tensors of the shapes of the lower parameters.
        iterations: Hessian products.
        seed: Of the start, drawn from a generator of its own.

    Raises:
        DivergedError: H is zero along the start, or not finite.
    """
    vector = random_like(like, seed=seed)
    size = 0.0
    for _ in range(iterations):
        vector = scaled(vector, 1.0 / norm(vector))
        product = point.hessian(vector)
        size = norm(product)
        if not 0.0 < size < float("inf"):
            raise DivergedError(f"power iteration: H x has norm {size}; set step_size to a number")
        vector = product
    return size
