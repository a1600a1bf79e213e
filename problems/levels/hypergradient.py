"""The protocol of a hypergradient approximation; the approximations themselves live in ``bilora.engines``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from bilora.problems.replay.lower_step import Needs
from bilora.tensors import Tensors

if TYPE_CHECKING:
    from bilora.problems.levels.lower import LowerProblem


@runtime_checkable
class Hypergradient(Protocol):
    """The implicit term of the hypergradient, ``-d2_{E,V} L1 . w`` with ``w ~ H^-1 v``.

    The total is ``dL2/dE = d_E L2 - d2_{E,V} L1 . w`` (implicit function theorem), where ``V`` are the lower
    parameters, ``E`` the upper ones, ``v = d_V L2`` and ``H = d2_{V,V} L1``. The upper level takes the
    direct gradient ``d_E L2`` and ``v`` from one backward pass and adds this term.

    An implementation changes nothing: one that perturbs parameters restores them bit-exactly, random
    state, buffers and train mode included, also when it raises.
    """

    @property
    def needs(self) -> Needs:
        """What the lower level has to remember of its last steps."""

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return the implicit term for ``vector`` = v, one tensor per upper parameter.

        Args:
            vector: v, one tensor per lower parameter.
            lower: The lower level, whose ``recorded_step()`` holds what :attr:`needs` asked for.
        """
