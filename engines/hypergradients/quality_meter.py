"""A live check of a hypergradient: how far it is from the exact one-step mixed derivative."""

from dataclasses import dataclass
from typing import Any

from bilora.engines.hypergradients.darts import Darts
from bilora.errors import SettingsError
from bilora.files.state import check_keys
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Needs
from bilora.tensors import Tensors, dot, norm


@dataclass(frozen=True)
class MeterReading:
    """The configured implicit term t beside that of one SGD step, ``e = -rate d2_{E,V} L1 . v`` by double backward."""

    cosine: float | None  # t . e / (|t| |e|); None where one of them is zero
    norm_ratio: float | None  # |t| / |e|; None where e is zero


class QualityMeter:
    """A hypergradient that returns the term of another one, and measures it every few upper steps."""

    def __init__(self, metered: Hypergradient, *, every: int) -> None:
        if every < 1:
            raise SettingsError(f"meter is {every}; it counts upper steps and must be at least 1")
        self.metered, self.every = metered, every
        # Of the last upper step, and None unless it was that step's turn.
        self.reading: MeterReading | None = None
        # One product and no solver: the only reference whose cost does not grow with the accuracy asked of it.
        self._exact = Darts(products="exact")
        self._calls = 0

    @property
    def needs(self) -> Needs:
        """The needs of the metered one and the exact one."""
        return self.metered.needs.joined(self._exact.needs)

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return the metered one's implicit term; measure it if its turn has come."""
        term = self.metered.implicit_term(vector, lower)
        self._calls += 1
        due = self._calls % self.every == 0
        # Of the same recorded step, hence of the same batch, masks and v.
        self.reading = compare(term, self._exact.implicit_term(vector, lower)) if due else None
        return term

    def state(self) -> dict[str, Any]:
        """Return the calls so far, on which the turn of the next reading depends."""
        return {"calls": self._calls}

    def load_state(self, state: Any) -> None:
        """Go on counting from the calls of :meth:`state`."""
        self._calls = check_keys(state, ("calls",), part="quality meter")["calls"]


def compare(term: Tensors, exact: Tensors) -> MeterReading:
    """Return the reading of a term beside the exact one."""
    length, exact_length = norm(term), norm(exact)
    cosine = dot(term, exact) / (length * exact_length) if length > 0 and exact_length > 0 else None
    return MeterReading(cosine, length / exact_length if exact_length > 0 else None)
