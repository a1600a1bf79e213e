"""The inverse Hessian by conjugate gradients."""

import math
from dataclasses import dataclass

from bilora.engines.hypergradients.implicit import ImplicitHypergradient, Point
from bilora.errors import SettingsError
from bilora.problems.replay.lower_step import LowerStep
from bilora.tensors import Tensors, add, dot, scaled, zeros_like


@dataclass(frozen=True)
class ConjugateGradient(ImplicitHypergradient):
    """w solves ``(H + damping I) w = v`` (Pedregosa, arXiv 1602.02355); one Hessian product per iteration.

    Exact after as many iterations as H has dimensions, up to rounding. Where the lower loss curves downwards
    along a search direction (H + damping I is not positive), the iteration stops with the solution so far; if that
    happens at once, w = v, as in ``darts``.

    Args:
        iterations: The largest number of iterations.
        damping: Added to every eigenvalue of H.
        tolerance: Stop when the residual is shorter than this times v.
    """

    iterations: int = 10
    damping: float = 0.0
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        faults = []
        if self.iterations < 1:
            faults.append(f"iterations is {self.iterations}; it must be at least 1")
        for name in ("damping", "tolerance"):
            if not 0 <= getattr(self, name) < math.inf:
                faults.append(f"{name} is {getattr(self, name)}; it must not be negative")
        if faults:
            raise SettingsError("conjugate_gradient: " + "; ".join(faults))

    def solve(self, vector: Tensors, point: Point, step: LowerStep) -> Tensors:
        """Return w."""
        solution = zeros_like(vector)
        residual = direction = vector
        earlier: list[Tensors] = []
        squared = dot(residual, residual)
        # Squared lengths throughout: the root is needed nowhere else.
        enough = self.tolerance**2 * squared
        for index in range(self.iterations):
            # Also true of a zero vector, whose solution is zero.
            if squared <= enough:
                break
            image = add(point.hessian(direction), direction, scale=self.damping)
            curvature = dot(direction, image)
            # There is no minimum along this direction: a step would go to the wrong side.
            if curvature <= 0.0:
                return vector if index == 0 else solution
            length = squared / curvature
            solution = add(solution, direction, scale=length)
            earlier.append(scaled(residual, squared**-0.5))
            residual = orthogonal_to(earlier, add(residual, image, scale=-length))
            previous, squared = squared, dot(residual, residual)
            # Conjugate to all earlier directions by this one factor (Fletcher-Reeves), as long as H is symmetric.
            direction = add(residual, direction, scale=squared / previous)
        return solution


def orthogonal_to(earlier: list[Tensors], vector: Tensors) -> Tensors:
    """Return ``vector`` without its parts along the orthonormal ``earlier``."""
    # In exact arithmetic the residuals are orthogonal already; rounding undoes that, and with a condition number of
    # 10^4 the iteration then needs many more steps than there are dimensions. One after another (modified
    # Gram-Schmidt): all dot products with the first vector would lose the orthogonality again.
    for residual in earlier:
        vector = add(vector, residual, scale=-dot(residual, vector))
    return vector
