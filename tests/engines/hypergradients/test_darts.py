"""Darts against closed forms on ridge regression, double backward on transformers, and stock Betty."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from betty.hypergradient.darts import darts as stock_darts
from ridge import cosine
from torch import Tensor

from bilora.engines.hypergradients.darts import Darts
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.replay.random_state import RandomState
from bilora.tensors import norm, put, restored

Make = Callable[..., Any]
SCHEMES = ("central", "forward")
# w = v alone, as the closed forms below and stock Betty have it; an engine warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:hypergradient darts has scale")
MODELS = ("bert", "gpt2", "llama")


def exact_term(lower: LowerProblem, vector: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return -d2_{E,V} L1 . v by double backward, at the parameters before the recorded step, with its masks."""
    step, parameters = lower.recorded_step(), lower.trainable_parameters()
    total = [torch.zeros_like(E) for E in lower.upper_parameters()]
    with restored(parameters):
        put(parameters, step.parameters_before)
        for micro_batch in step.micro_batches:
            with micro_batch.random_state.replayed():
                loss = lower.training_step_exec(micro_batch.batch) / len(step.micro_batches)
                gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
                along = sum((g * v).sum() for g, v in zip(gradient, vector, strict=True) if g is not None)
                parts = torch.autograd.grad(along, lower.upper_parameters())
            total = [a - b for a, b in zip(total, parts, strict=True)]
    return tuple(total)


@pytest.mark.parametrize("radius", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize(("scheme", "around"), [*((s, "before_step") for s in SCHEMES), ("central", "after_step")])
def test_equals_the_closed_form_up_to_its_truncation_error(
    make_ridge: Make, scheme: str, around: str, radius: float
) -> None:
    method = Darts(scale="one", finite_difference=scheme, around=around, radius=radius)
    ridge = make_ridge(method)
    ridge.engine.run()
    vector = ridge.v()
    weights = ridge.lower.recorded_step().parameters_before[0] if around == "before_step" else ridge.V.detach()
    # d_E L1 = exp(E) V^2 is quadratic in V, so a central difference has no truncation error at all.
    error = radius / vector.norm() * vector**2 if scheme == "forward" else 0.0
    (term,) = method.implicit_term((vector,), ridge.lower)
    expected = -ridge.E.detach().exp() * (2 * weights * vector + error)
    torch.testing.assert_close(term, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_learning_rate_scale_is_the_derivative_through_one_sgd_step(make_ridge: Make, scheme: str) -> None:
    rate = 0.03
    method = Darts(finite_difference=scheme, scale="learning_rate", radius=1e-6)
    ridge = make_ridge(method, learning_rate=rate)
    ridge.engine.run()
    (term,) = method.implicit_term((ridge.v(),), ridge.lower)
    weights = ridge.lower.recorded_step().parameters_before[0].clone().requires_grad_()
    log_penalty = ridge.E.detach().clone().requires_grad_()
    inputs, targets = ridge.lower_batches[0]
    below = ((inputs @ weights - targets) ** 2).mean() + (log_penalty.exp() * weights**2).sum()
    (gradient,) = torch.autograd.grad(below, weights, create_graph=True)
    inputs, targets = ridge.upper_batches[0]
    above = ((inputs @ (weights - rate * gradient) - targets) ** 2).mean()
    (expected,) = torch.autograd.grad(above, log_penalty)
    torch.testing.assert_close(term, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_upper_step_moves_along_direct_plus_implicit(make_ridge: Make, scheme: str) -> None:
    ridge = make_ridge(Darts(scale="one", finite_difference=scheme, radius=1e-6))
    ridge.upper.optimizer.param_groups[0]["lr"] = 1.0
    ridge.engine.steps, ridge.engine.train_iters = 1, 1
    start = ridge.E.detach().clone()
    ridge.engine.run()
    (before,) = ridge.lower.recorded_step().parameters_before
    expected = 0.2 * start - 2 * start.exp() * before * ridge.v()
    torch.testing.assert_close(start - ridge.E.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_micro_batch_enters(make_ridge: Make, scheme: str) -> None:
    method = Darts(scale="one", finite_difference=scheme, radius=1e-4)
    whole, halves = make_ridge(method), make_ridge(method, lower_config=Config(gradient_accumulation=2))
    inputs, targets = halves.lower_batches[0]
    halves.lower.train_data_loader[0] = list(zip(inputs.split(20), targets.split(20), strict=True))
    halves.lower.restart_loader()
    whole.engine.run()
    halves.engine.run()
    assert len(halves.lower.recorded_step().micro_batches) == 2
    terms = [method.implicit_term((whole.v(),), ridge.lower) for ridge in (halves, whole)]
    torch.testing.assert_close(*terms, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scheme", [*SCHEMES, "exact"])
@pytest.mark.parametrize(
    ("name", "dropout", "accumulation"),
    [*((name, dropout, 1) for name in (*MODELS, "gpt2-answers") for dropout in (0.0, 0.1)), ("bert", 0.1, 2)],
)
def test_agrees_with_double_backward_under_the_same_masks(
    make_transformer: Make, name: str, dropout: float, accumulation: int, scheme: str
) -> None:
    # The truncation error of a forward difference is in proportion to the radius, and with answers alone it is larger.
    radius = 1e-3 if name == "gpt2-answers" else 1e-2
    method = (
        Darts(scale="one", products="exact")
        if scheme == "exact"
        else Darts(scale="one", finite_difference=scheme, radius=radius)
    )
    options = {"hypergradient": method, "adapter_dropout": dropout, "accumulation": accumulation}
    problem = make_transformer(name, dropout=dropout, **options)
    vector = problem.run_to_upper_step()
    term = method.implicit_term(vector, problem.lower)
    assert len(problem.lower.recorded_step().micro_batches) == accumulation
    expected = exact_term(problem.lower, vector)
    assert cosine(term, expected) >= 0.999
    assert norm(term) == pytest.approx(norm(expected), rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_without_mask_replay_it_is_noise(make_transformer: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the agreement above rests on: with masks drawn anew in each pass it is gone."""
    method = Darts(scale="one", finite_difference="central")
    problem = make_transformer(name, dropout=0.1, hypergradient=method)
    vector = problem.run_to_upper_step()
    expected = exact_term(problem.lower, vector)
    monkeypatch.setattr(RandomState, "replayed", lambda state: contextlib.nullcontext())
    assert abs(cosine(method.implicit_term(vector, problem.lower), expected)) < 0.5


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_stock_betty_without_dropout(make_transformer: Make, name: str) -> None:
    method = Darts(scale="one", finite_difference="central", around="after_step")
    problem = make_transformer(name, dropout=0.0, hypergradient=method)
    vector = problem.run_to_upper_step()
    term = method.implicit_term(vector, problem.lower)
    # Betty's own function on our levels; it leaves the parameters off by rounding, so it comes second.
    stock = tuple(stock_darts([v.clone() for v in vector], problem.lower, problem.upper, sync=False))
    assert cosine(term, stock) >= 0.999
    assert norm(term) == pytest.approx(norm(stock), rel=1e-3)
