"""What every hypergradient approximation must do, row by row of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bilora.engines.hypergradients.catalog import HYPERGRADIENTS, build_hypergradient
from bilora.errors import DivergedError, SettingsError
from bilora.problems.replay.random_state import RandomState

CHOICES: list[Any] = [
    *sorted(HYPERGRADIENTS),
    {"name": "darts", "finite_difference": "forward"},
    {"name": "darts", "around": "after_step"},
    {"name": "darts", "scale": "learning_rate", "finite_difference": "central"},
    *({"name": name, "products": "exact"} for name in sorted(HYPERGRADIENTS) if name != "first_order"),
    {"name": "neumann", "finite_difference": "forward"},
    {"name": "conjugate_gradient", "finite_difference": "forward", "damping": 0.1},
    {"name": "unrolled", "steps": 2},
    {"name": "unrolled", "steps": 3, "products": "exact"},
]


def random_states() -> list[Any]:
    state = RandomState.take(torch.device("cpu"))
    return [state.python, state.numpy[1].tolist(), state.numpy[2], state.torch_cpu.tolist()]


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return everything of a model that a hypergradient might touch, bit for bit."""
    gradients = {name: None if each.grad is None else each.grad.clone() for name, each in model.named_parameters()}
    return {
        "parameters": {name: each.detach().clone() for name, each in model.named_parameters()},
        "gradients": gradients,
        "buffers": {name: each.clone() for name, each in model.named_buffers()},
        "modes": {name: each.training for name, each in model.named_modules()},
        "requires_grad": {name: each.requires_grad for name, each in model.named_parameters()},
        "random": random_states(),
    }


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
class TestContract:
    def test_changes_nothing(self, make_transformer: Callable[..., Any], name: str, chosen: Any) -> None:
        problem = make_transformer(name, dropout=0.1, hypergradient=chosen)
        vector = problem.run_to_upper_step()
        before = fingerprint(problem.model)
        term = problem.upper.hypergradient.implicit_term(vector, problem.lower)
        assert_same(fingerprint(problem.model), before)
        assert [each.shape for each in term] == [each.shape for each in problem.upper.trainable_parameters()]
        assert all(torch.isfinite(each).all() and not each.requires_grad for each in term)

    def test_changes_nothing_when_a_pass_raises(
        self, make_transformer: Callable[..., Any], name: str, chosen: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        problem = make_transformer(name, dropout=0.1, hypergradient=chosen)
        vector = problem.run_to_upper_step()
        before = fingerprint(problem.model)
        passes = []

        def out_of_memory(*_: Any) -> None:
            torch.rand(3)  # a pass draws its masks before it dies
            passes.append(fingerprint(problem.model)["parameters"])
            raise MemoryError

        monkeypatch.setattr(problem.lower, "training_step", out_of_memory)
        if problem.lower.needs.steps:
            with pytest.raises(MemoryError):
                problem.upper.hypergradient.implicit_term(vector, problem.lower)
            # It did raise in the middle: the parameters were displaced when it happened.
            moved = [not torch.equal(passes[0][name], each) for name, each in before["parameters"].items()]
            assert any(moved)
        else:
            problem.upper.hypergradient.implicit_term(vector, problem.lower)
        assert_same(fingerprint(problem.model), before)

    def test_zero_vector_gives_zeros(self, make_transformer: Callable[..., Any], name: str, chosen: Any) -> None:
        problem = make_transformer(name, dropout=0.1, hypergradient=chosen)
        vector = tuple(torch.zeros_like(each) for each in problem.run_to_upper_step())
        term = problem.upper.hypergradient.implicit_term(vector, problem.lower)
        assert all(torch.equal(each, torch.zeros_like(each)) for each in term)

    def test_gradient_checkpointing_gives_the_same(
        self, make_transformer: Callable[..., Any], name: str, chosen: Any
    ) -> None:
        terms = []
        for checkpointing in (False, True):
            problem = make_transformer(name, dropout=0.1, hypergradient=chosen)
            if checkpointing:
                problem.model.activation_checkpointing_enable({"use_reentrant": False})
            vector = problem.run_to_upper_step()
            terms.append(problem.upper.hypergradient.implicit_term(vector, problem.lower))
        torch.testing.assert_close(terms[1], terms[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_batch_norm_statistics_stay(make_ridge: Callable[..., Any], chosen: Any) -> None:
    ridge = make_ridge(chosen)
    norm = nn.BatchNorm1d(20, dtype=torch.float64).requires_grad_(False)
    ridge.lower.module.add_module("norm", norm)
    ridge.lower.training_step = lambda batch: _normed_loss(ridge, norm, batch)
    ridge.engine.run()
    ridge.engine.train()
    before = {name: each.clone() for name, each in norm.named_buffers()}
    assert before["num_batches_tracked"] == 4  # one a lower step: no replay has been counted
    ridge.upper.hypergradient.implicit_term((ridge.v(),), ridge.lower)
    assert_same(dict(norm.named_buffers()), before)


def _normed_loss(ridge: Any, norm: nn.Module, batch: Any) -> torch.Tensor:
    inputs, targets = batch
    weights = ridge.lower.module.value
    return ((norm(inputs) @ weights - targets) ** 2).mean() + (ridge.upper.module.value.exp() * weights**2).sum()


@pytest.mark.parametrize("chosen", [each for each in CHOICES if each != "first_order"], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_vector_is_refused_before_anything_moves(make_ridge: Callable[..., Any], chosen: Any, bad: float) -> None:
    ridge = make_ridge(chosen)
    ridge.engine.run()
    before = fingerprint(ridge.lower.module)
    with pytest.raises(DivergedError, match="gradient of norm (nan|inf).* no parameter was moved"):
        ridge.upper.hypergradient.implicit_term((torch.full((20,), bad, dtype=torch.float64),), ridge.lower)
    assert_same(fingerprint(ridge.lower.module), before)


def test_half_precision_parameters_are_refused_by_forward_differences(make_ridge: Callable[..., Any]) -> None:
    ridge = make_ridge({"name": "darts", "finite_difference": "forward"})
    ridge.engine.run()
    ridge.lower.module.value.data = ridge.lower.module.value.data.bfloat16()
    with pytest.raises(SettingsError, match="'value' is torch.bfloat16"):
        ridge.upper.hypergradient.implicit_term((torch.ones(20),), ridge.lower)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "dart"}, "hypergradient 'dart' is unknown; known: adaptive, .*Did you mean 'darts'"),
        ({"name": "first_order", "radius": 1.0}, "hypergradient 'first_order' has no setting 'radius'; known: none"),
        ({"name": "darts", "radiuss": 1.0}, "Did you mean 'radius'"),
        ({"radiuss": 1.0}, "hypergradient 'darts' has no setting 'radiuss'"),
        ({"name": "darts", "radius": 0.0}, "radius is 0.0; it must be positive"),
        ({"name": "darts", "radius": float("nan")}, "radius is nan"),
        ({"name": "darts", "scale": "two"}, "scale: Expected"),
        ({"name": "darts", "finite_difference": "forward", "around": "after_step"}, "use around: before_step"),
        ("no.such.module:NAME", "cannot import module 'no.such.module'"),
    ],
)
def test_bad_settings_are_refused(settings: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build_hypergradient(settings)


def test_object_and_own_class_are_taken() -> None:
    own = build_hypergradient("bilora.engines.hypergradients.first_order:FirstOrder")
    assert build_hypergradient(own) is own
