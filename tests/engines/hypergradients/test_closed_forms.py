"""Every approximation against what it approximates: a ridge problem whose Hessian is known, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.errors import DivergedError

Make = Callable[..., Any]
FEATURES = 20
CONDITIONS = (1.0, 1e2, 1e4)


class KnownRidge:
    """A ridge problem with data of a given condition, its Hessian and mixed derivative."""

    def __init__(self, ridge: Any, condition: float) -> None:
        self.ridge, self.lower = ridge, ridge.lower
        eigenvalues = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), FEATURES).double()
        torch.manual_seed(1)
        left = torch.linalg.qr(torch.randn(40, FEATURES).double()).Q
        right = torch.linalg.qr(torch.randn(FEATURES, FEATURES).double()).Q
        inputs = left * (40 * eigenvalues).sqrt() @ right.T
        self.lower.train_data_loader[0] = [(inputs, ridge.lower_batches[0][1])]
        self.lower.restart_loader()
        with torch.no_grad():
            ridge.upper.module.value.copy_(torch.full((FEATURES,), -14.0).double())
        ridge.engine.run()
        self.vector = ridge.v()
        penalty = ridge.upper.module.value.detach().exp()
        (self.weights,) = self.lower.recorded_step().parameters_before
        self.hessian = 2 * inputs.T @ inputs / 40 + 2 * torch.diag(penalty)
        self.mixed = 2 * penalty * self.weights  # diagonal of d2_{E,V} L1

    def implicit_term(self) -> Tensor:
        """Return what the approximation gives."""
        (term,) = self.ridge.upper.hypergradient.implicit_term((self.vector,), self.lower)
        return term

    def error(self, solution: Tensor) -> float:
        """Return the relative error of the implicit term, where w should be this."""
        return relative_error(self.implicit_term(), -self.mixed * solution)


@pytest.fixture
def make_known(make_ridge: Make) -> Make:
    """Make a known ridge problem for a hypergradient setting and a condition number."""
    return lambda settings, condition, **options: KnownRidge(make_ridge(settings, **options), condition)


def relative_error(term: Tensor, expected: Tensor) -> float:
    return ((term - expected).norm() / expected.norm()).item()


class Matrix:
    """Products with a Hessian that is given."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def hessian(self, vector: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return H x."""
        return (self.matrix @ vector[0],)


CG = {"name": "conjugate_gradient", "products": "exact"}
NYSTROM = {"name": "nystrom", "rank": FEATURES, "products": "exact"}
SOLVES = [
    *((CG | {"iterations": FEATURES, "tolerance": 0.0}, 0.0, k, e) for k, e in ((1.0, 1e-6), (1e2, 1e-5), (1e4, 1e-2))),
    *((CG | {"iterations": 60, "damping": 0.5, "tolerance": 1e-12}, 0.5, condition, 1e-9) for condition in CONDITIONS),
    *((NYSTROM | {"damping": d}, d, condition, 1e-8) for d in (1e-3, 1.0) for condition in CONDITIONS),
]


@pytest.mark.parametrize(("settings", "damping", "condition", "allowed"), SOLVES)
def test_conjugate_gradient_and_nystrom_of_full_rank_solve_the_damped_system(
    make_known: Make, settings: dict[str, Any], damping: float, condition: float, allowed: float
) -> None:
    """Conjugate gradients after as many iterations as there are dimensions."""
    known = make_known(settings, condition)
    damped = known.hessian + damping * torch.eye(FEATURES).double()
    assert known.error(torch.linalg.solve(damped, known.vector)) <= allowed


@pytest.mark.parametrize("products", ["exact", "finite_difference"])
def test_conjugate_gradient_stops_at_its_tolerance(make_known: Make, products: str) -> None:
    settings = {"name": "conjugate_gradient", "iterations": 100, "tolerance": 1e-3, "products": products}
    known = make_known(settings, 10.0)
    solution = -known.implicit_term() / known.mixed
    residual = known.vector - known.hessian @ solution
    assert residual.norm() <= 1.1e-3 * known.vector.norm()


@pytest.mark.parametrize("scheme", ["central", "forward"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_finite_differences_of_a_quadratic_solve_as_exact_products_do(
    make_known: Make, condition: float, scheme: str
) -> None:
    # The gradient in V is linear in V, so its difference has no truncation error; the mixed one has, in `forward`.
    settings = {"name": "neumann", "terms": 4, "step_size": 0.3}
    exact = make_known({**settings, "products": "exact"}, condition).implicit_term()
    radius, allowed = (1e-5, 1e-4) if scheme == "forward" else (1e-2, 1e-9)
    term = make_known({**settings, "finite_difference": scheme, "radius": radius}, condition).implicit_term()
    assert relative_error(term, exact) < allowed


@pytest.mark.parametrize("terms", [1, 2, 7, 50])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_neumann_is_its_partial_sum(make_known: Make, condition: float, terms: int) -> None:
    size = 0.4
    known = make_known({"name": "neumann", "terms": terms, "step_size": size, "products": "exact"}, condition)
    step = torch.eye(FEATURES).double() - size * known.hessian
    total = size * sum(torch.linalg.matrix_power(step, power) @ known.vector for power in range(terms))
    assert known.error(total) <= 1e-10


def test_neumann_by_power_iteration_uses_one_over_the_largest_eigenvalue(make_known: Make) -> None:
    settings = {"name": "neumann", "terms": 1, "step_size": "power_iteration", "power_iterations": 200}
    known = make_known({**settings, "products": "exact"}, 100.0)
    largest = torch.linalg.eigvalsh(known.hessian)[-1]
    assert known.error(known.vector / largest) < 1e-6


def test_neumann_refuses_to_diverge(make_ridge: Make) -> None:
    ridge = make_ridge({"name": "neumann", "terms": 40, "step_size": 2.2, "products": "exact"})
    with pytest.raises(DivergedError, match="neumann diverges: term .* take fewer terms, a smaller step_size"):
        ridge.engine.run()


def test_nystrom_of_low_rank_is_exact_on_a_hessian_of_low_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    root, vector = (torch.randn(FEATURES, count, generator=generator).double() for count in (3, 1))
    method = build_hypergradient({"name": "nystrom", "rank": 3, "damping": 0.1})
    (solution,) = method.solve((vector,), Matrix(root @ root.T), None)
    expected = torch.linalg.solve(root @ root.T + 0.1 * torch.eye(FEATURES).double(), vector)
    assert relative_error(solution, expected) < 1e-10


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_unrolled_sgd_equals_neumann_of_as_many_terms(make_known: Make, steps: int) -> None:
    # Equal only where the mixed derivative is the same at every step: at the lower optimum, where nothing moves.
    def at_optimum(settings: dict[str, Any]) -> Tensor:
        known = make_known(settings | {"products": "exact"}, 100.0, learning_rate=0.2)
        inputs, targets = known.lower.train_data_loader[0][0]
        optimum = torch.linalg.solve(known.hessian, 2 * inputs.T @ targets / 40)
        with torch.no_grad():
            known.lower.module.value.copy_(optimum)
        known.ridge.engine.train_iters += 8
        known.ridge.engine.run()
        torch.testing.assert_close(known.lower.module.value.detach(), optimum, rtol=1e-9, atol=1e-12)
        return known.implicit_term()

    unrolled = at_optimum({"name": "unrolled", "steps": steps})
    neumann = at_optimum({"name": "neumann", "terms": steps, "step_size": "learning_rate"})
    assert relative_error(unrolled, neumann) <= 1e-8


def test_conjugate_gradient_stops_on_negative_curvature() -> None:
    method = build_hypergradient({"name": "conjugate_gradient", "iterations": 5})
    ones = (torch.ones(3).double(),)
    assert method.solve(ones, Matrix(-torch.eye(3).double()), None) is ones
    # One step along v is possible (v H v > 0); the next direction curves downwards, and the step is kept.
    (solution,) = method.solve(ones, Matrix(torch.diag(torch.tensor([4.0, 1.0, -1.0])).double()), None)
    torch.testing.assert_close(solution, torch.full((3,), 3.0 / 4.0).double())
