"""How second-derivative products of the lower loss are taken: one contract, one table."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from bilora.aliases import Tensors
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import LowerStep, Needs


class Point(Protocol):
    """Products at one point: the lower parameters, batch and masks of one recorded lower step."""

    def hessian(self, vector: Tensors) -> Tensors:
        """Return ``d2_{V,V} L1 . x``, one tensor a lower parameter."""
        ...

    def mixed(self, vector: Tensors) -> Tensors:
        """Return ``d2_{E,V} L1 . x``, one tensor an upper parameter."""
        ...


class Products(Protocol):
    """A way to take products, chosen by the setting ``products`` of an approximation."""

    @property
    def needs(self) -> Needs:
        """What the lower level has to remember for it."""
        ...

    def at(self, lower: LowerProblem, step: LowerStep) -> AbstractContextManager[Point]:
        """Open the point of a recorded step; on leaving, the lower level is as it was, bit for bit."""
        ...
