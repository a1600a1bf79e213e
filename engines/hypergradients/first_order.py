"""The hypergradient without its implicit term."""

from dataclasses import dataclass

from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Needs
from bilora.tensors import Tensors, zeros_like


@dataclass(frozen=True)
class FirstOrder:
    """w = 0: the two levels alternate, each with its own gradient; dL2/dE ~ d_E L2."""

    # Costs nothing beyond the upper level's pass, and forgets how the lower level answers to the upper one.

    @property
    def needs(self) -> Needs:
        """Nothing is remembered of the lower step."""
        return Needs()

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return zeros, one tensor per upper parameter."""
        return zeros_like(lower.upper_parameters())
