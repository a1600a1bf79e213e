"""The hypergradient of DARTS: the inverse Hessian taken as a multiple of the identity."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bilora.engines.hypergradients.finite_difference import Scheme
from bilora.engines.hypergradients.implicit import ImplicitHypergradient, Point
from bilora.errors import SettingsError
from bilora.problems.replay.lower_step import LowerStep
from bilora.tensors import Tensors, scaled


@dataclass(frozen=True)
class Darts(ImplicitHypergradient):
    """w = scale * v (DARTS, arXiv 1806.09055, eq. 7); one mixed product."""

    # ``one`` is Betty's: its implicit term is longer, by one over the learning rate, than the derivative through an SGD
    # step, and drowns the direct gradient.
    scale: Literal["one", "learning_rate"] = "learning_rate"

    # One pass less than ``central``; a single mixed product forgives the larger error.
    OWN_SCHEME: ClassVar[Scheme] = "forward"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in ("one", "learning_rate"):
            raise SettingsError(f"scale is {self.scale!r}; allowed: one, learning_rate")

    def solve(self, vector: Tensors, point: Point, step: LowerStep) -> Tensors:
        """Return v, or v times the rate of each parameter in the lower step."""
        # One SGD step is V' = V - rate g(V, E): dV'/dE = -rate d2_{V,E} L1, so w = rate v, exactly.
        return vector if self.scale == "one" else scaled(vector, step.learning_rates)
