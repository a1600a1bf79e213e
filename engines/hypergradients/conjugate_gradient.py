"""The inverse Hessian by conjugate gradients."""

import math
from dataclasses import dataclass

from bilora.engines.hypergradients.implicit import ImplicitHypergradient, Point
from bilora.errors import SettingsError
from bilora.problems.replay.lower_step import LowerStep
from bilora.tensors import Tensors, add, dot, scaled, zeros_like


@dataclass(frozen=True)
class ConjugateGradient(ImplicitHypergradient):
    """w solves ``(H + damping I) w = v`` (Pedregosa, arXiv 1602.02355); one Hessian product per iteration."""

    # At most so many; after as many as H has dimensions, w is exact up to rounding.
    iterations: int = 10
    # Added to every eigenvalue of H, which must become positive.
    damping: float = 0.0
    # Stop when the residual is shorter than this times v.
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
        """Return w, or what there is of it where the lower loss starts to curve downwards."""
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
            # H + damping I is not positive: there is no minimum along this direction, and a step would go to the wrong
            # side. Before the first step there is no solution yet, and w = v as in darts.
            if curvature <= 0.0:
                return vector if index == 0 else solution
            length = squared / curvature
            solution = add(solution, direction, scale=length)
            earlier.append(scaled(residual, squared**-0.5))
            residual = add(residual, image, scale=-length)
            # In exact arithmetic the residuals are orthogonal already; rounding undoes that, and with a condition
            # number of 10^4 the iteration then needs many more steps than there are dimensions. One after another
            # (modified Gram-Schmidt): all dot products with the first vector would lose the orthogonality again.
            for unit in earlier:
                residual = add(residual, unit, scale=-dot(unit, residual))
            previous, squared = squared, dot(residual, residual)
            # Conjugate to all earlier directions by this one factor (Fletcher-Reeves), as long as H is symmetric.
            direction = add(residual, direction, scale=squared / previous)
        return solution
