"""The implicit function theorem: find ``w ~ H^-1 v``, then take one mixed product; and the ways to take products."""

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar, Protocol

from bilora.engines.hypergradients.exact import ExactProducts
from bilora.engines.hypergradients.finite_difference import FiniteDifference, Scheme
from bilora.errors import DivergedError, SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.lower_step import Around, LowerStep, Needs
from bilora.settings.lookup import find
from bilora.tensors import Tensors, norm, scaled


class Point(Protocol):
    """Products at one point: the lower parameters, batch and masks of one recorded lower step."""

    def hessian(self, vector: Tensors) -> Tensors:
        """Return ``d2_{V,V} L1 . x``, one tensor per lower parameter."""

    def mixed(self, vector: Tensors) -> Tensors:
        """Return ``d2_{E,V} L1 . x``, one tensor per upper parameter."""


class Products(Protocol):
    """A way to take products, chosen by the setting ``products`` of an approximation."""

    @property
    def needs(self) -> Needs:
        """What the lower level has to remember for it."""

    def at(self, lower: LowerProblem, step: LowerStep) -> AbstractContextManager[Point]:
        """Open the point of a recorded step; on leaving, the lower level is as it was, bit for bit."""


@dataclass(frozen=True)
class ProductSettings:
    """How an approximation takes its products of second derivatives."""

    # A row of PRODUCTS, or package.module:NAME of a user's own, which is called with these settings.
    products: str = "finite_difference"
    # None takes OWN_SCHEME where products are taken before the step, and central elsewhere.
    finite_difference: Scheme | None = None
    # Length of the displacement of all the lower parameters together.
    radius: float = 0.01
    # At which lower parameters products are taken.
    around: Around = "before_step"
    OWN_SCHEME: ClassVar[Scheme] = "central"

    def __post_init__(self) -> None:
        """Check the settings of the products before a run starts."""
        differences = [field for field in fields(self) if field.name in ("finite_difference", "radius")]
        idle = [field.name for field in differences if getattr(self, field.name) != field.default]
        if self.products == "exact" and idle:
            raise SettingsError(f"products 'exact' takes no finite difference: leave out {', '.join(idle)}")
        if self.finite_difference is None and self.products != "exact":
            # Forward differences re-use the gradient of the step, which was taken before it.
            scheme = self.OWN_SCHEME if self.around == "before_step" else "central"
            # The way round a frozen dataclass.
            object.__setattr__(self, "finite_difference", scheme)
        # Built before the run starts, so that its own checks speak now.
        _ = self.product_method

    @cached_property
    def product_method(self) -> Products:
        """How the products are taken."""
        return find(PRODUCTS, self.products, kind="products")(self)

    @property
    def needs(self) -> Needs:
        """What the products need of the last lower step."""
        return self.product_method.needs


@dataclass(frozen=True)
class ImplicitHypergradient(ProductSettings, abc.ABC):
    """``dL2/dE ~ d_E L2 - d2_{E,V} L1 . w`` by the implicit function theorem; a subclass says how w is found."""

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return ``-d2_{E,V} L1 . w`` for ``vector`` = v."""
        refuse_not_finite(vector)
        step = lower.recorded_step()
        if step.skipped:
            raise DivergedError("the lower step that the hypergradient comes back to was skipped: it is not finite")
        with self.product_method.at(lower, step) as point:
            # d_V L1(V*(E), E) = 0 along E gives dV*/dE = -H^-1 d2_{V,E} L1: hence the minus.
            return scaled(point.mixed(self.solve(vector, point, step)), -1.0)

    @abc.abstractmethod
    def solve(self, vector: Tensors, point: Point, step: LowerStep) -> Tensors:
        """Return w for ``vector`` = v."""


def refuse_not_finite(vector: Tensors) -> None:
    """Refuse a v that is not finite before anything is perturbed."""
    length = norm(vector)
    # Written so that nan is refused too.
    if not length < float("inf"):
        raise DivergedError(
            f"the upper loss has a gradient of norm {length} in the lower parameters; no parameter was moved"
        )


# Every way to take products by name; a new one is a file and a row here.
PRODUCTS: dict[str, Callable[[ProductSettings], Products]] = {
    "finite_difference": lambda settings: FiniteDifference(
        scheme=settings.finite_difference or "central", radius=settings.radius, around=settings.around
    ),
    "exact": lambda settings: ExactProducts(around=settings.around),
}
