"""The inverse Hessian by a Neumann series."""

import math
from dataclasses import dataclass
from typing import Literal

from bilora.engines.hypergradients.implicit import ImplicitHypergradient, Point
from bilora.errors import DivergedError, SettingsError
from bilora.problems.replay.lower_step import LowerStep
from bilora.tensors import Tensors, add, norm, random_like, scaled

# How much longer than v a term of the series may get; those of a series that converges only shrink.
GROWTH = 2.0


@dataclass(frozen=True)
class Neumann(ImplicitHypergradient):
    """``w = A sum_{j < terms} (I - H A)^j v`` (Lorraine et al., arXiv 1911.02590, eq. 8); terms - 1 products."""

    # One term is darts with that scale.
    terms: int = 5
    # A: a number; each parameter's rate in the lower step, with which w is the exact derivative through so many SGD
    # steps of a quadratic; or one over the largest eigenvalue of H, which costs so many more products.
    step_size: float | Literal["learning_rate", "power_iteration"] = "learning_rate"
    power_iterations: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.step_size in ("learning_rate", "power_iteration")
        faults = []
        if self.terms < 1:
            faults.append(f"terms is {self.terms}; it must be at least 1")
        if not named and not (isinstance(self.step_size, float | int) and 0 < self.step_size < math.inf):
            faults.append(
                f"step_size is {self.step_size!r}; allowed: learning_rate, power_iteration, a positive number"
            )
        if self.power_iterations < 1:
            faults.append(f"power_iterations is {self.power_iterations}; it must be at least 1")
        if faults:
            raise SettingsError("neumann: " + "; ".join(faults))

    def solve(self, vector: Tensors, point: Point, step: LowerStep) -> Tensors:
        """Return the partial sum; refuse a series whose terms grow."""
        sizes = self._sizes(vector, point, step)
        limit = GROWTH * norm(vector)
        term = total = vector
        for index in range(1, self.terms):
            # (I - H A) t: A acts first, so that different rates per parameter need no symmetric H A.
            term = add(term, point.hessian(scaled(term, sizes)), scale=-1.0)
            length = norm(term)
            # The step size is above 2 / lambda_max, or the lower loss curves downwards.
            if not length <= limit:
                raise DivergedError(
                    f"neumann diverges: term {index + 1} has norm {length:.3g}, v has {limit / GROWTH:.3g}; take "
                    "fewer terms, a smaller step_size if it is a number, or conjugate_gradient with damping"
                )
            total = add(total, term)
        return scaled(total, sizes)

    def _sizes(self, vector: Tensors, point: Point, step: LowerStep) -> list[float]:
        if self.step_size == "learning_rate":
            return list(step.learning_rates)
        if self.step_size == "power_iteration":
            # The series converges up to 2 / lambda_max: 1, as the estimate is from below and its inverse too large.
            return [1.0 / largest_eigenvalue(point, like=vector, iterations=self.power_iterations)] * len(vector)
        return [float(self.step_size)] * len(vector)


def largest_eigenvalue(point: Point, *, like: Tensors, iterations: int, seed: int = 0) -> float:
    """Return the norm of H x / |x| after some power iterations: the eigenvalue of largest size, from below."""
    vector = random_like(like, seed=seed)
    for _ in range(iterations):
        vector = point.hessian(scaled(vector, 1.0 / norm(vector)))
        size = norm(vector)
        # Zero where the lower loss is linear along x: its direction is lost.
        if not 0.0 < size < float("inf"):
            raise DivergedError(f"power iteration: H x has norm {size}; set step_size to a number")
    return size
