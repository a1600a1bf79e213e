"""The hypergradient of DARTS: the inverse Hessian taken as a multiple of the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bilora.aliases import Tensors
from bilora.engines.finite_difference import Around, FiniteDifference, Scheme
from bilora.engines.vectors import scaled
from bilora.errors import SettingsError
from bilora.problems.lower import LowerProblem
from bilora.problems.lower_step import Needs

Scale = Literal["one", "learning_rate"]


@dataclass(frozen=True)
class Darts:
    """w = scale * v (DARTS, arXiv 1806.09055, eq. 7), so ``dL2/dE ~ d_E L2 - scale * d2_{E,V} L1 . v``.

    With ``scale: learning_rate`` this is the exact derivative through one SGD step of the lower level; with
    ``scale: one``, as in Betty, the implicit term is larger by one over that learning rate.

    Args:
        finite_difference: Scheme of the products, see :class:`~bilora.engines.finite_difference.FiniteDifference`.
        scale: ``one``, or ``learning_rate``: each parameter's rate in the lower step.
        radius: Length of the displacement of the lower parameters.
        around: Which lower parameters are displaced.

    Raises:
        SettingsError: A value is not allowed.

    Example:
        >>> Darts(finite_difference="forward", scale="learning_rate").needs
        Needs(step=True, parameters_before=True, upper_gradient=True)
    """

    finite_difference: Scheme = "central"
    scale: Scale = "one"
    radius: float = 0.01
    around: Around = "before_step"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.scale not in ("one", "learning_rate"):
            raise SettingsError(f"scale is {self.scale!r}; allowed: one, learning_rate")
        # Built here so that its own checks speak before a run starts.
        _ = self.products

    @property
    def products(self) -> FiniteDifference:
        """How the mixed product is taken."""
        return FiniteDifference(scheme=self.finite_difference, radius=self.radius, around=self.around)

    @property
    def needs(self) -> Needs:
        """What the products need."""
        return self.products.needs

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return ``-d2_{E,V} L1 . (scale * v)``."""
        product = self.products.mixed_product(self._direction(vector, lower), lower)
        return scaled(product, -1.0)

    def _direction(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        if self.scale == "one":
            return vector
        return scaled(vector, lower.recorded_step().learning_rates)
