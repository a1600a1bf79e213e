"""What every hypergradient approximation must do, row by row of the table."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from fingerprint import assert_same, fingerprint
from torch import nn

from bilora.engines.hypergradients.catalog import HYPERGRADIENTS, build_hypergradient
from bilora.errors import DivergedError, SettingsError
from bilora.tensors import zeros_like

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


Make = Callable[..., Any]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
class TestContract:
    @pytest.fixture
    def problem(self, make_transformer: Make, name: str, choice: Any) -> Any:
        return make_transformer(name, dropout=0.1, hypergradient=choice)

    def test_changes_nothing(self, problem: Any) -> None:
        vector = problem.run_to_upper_step()
        before = fingerprint(problem.model)
        term = problem.upper.hypergradient.implicit_term(vector, problem.lower)
        assert_same(fingerprint(problem.model), before)
        assert [part.shape for part in term] == [E.shape for E in problem.upper.trainable_parameters()]
        assert all(torch.isfinite(part).all() and not part.requires_grad for part in term)
        zeros = problem.upper.hypergradient.implicit_term(zeros_like(vector), problem.lower)
        assert all(torch.equal(part, torch.zeros_like(part)) for part in zeros)

    def test_changes_nothing_when_a_pass_raises(self, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        vector = problem.run_to_upper_step()
        before, passes = fingerprint(problem.model), []

        def out_of_memory(*_: Any) -> None:
            torch.rand(3)  # a pass draws its masks before it dies
            passes.append(fingerprint(problem.model)["parameters"])
            raise MemoryError

        monkeypatch.setattr(problem.lower, "training_step", out_of_memory)
        with pytest.raises(MemoryError) if problem.lower.needs.steps else nullcontext():
            problem.upper.hypergradient.implicit_term(vector, problem.lower)
        # It did raise in the middle: the parameters were displaced when it happened.
        moved = [not torch.equal(V, before["parameters"][name]) for seen in passes[:1] for name, V in seen.items()]
        assert any(moved) == bool(problem.lower.needs.steps)
        assert_same(fingerprint(problem.model), before)

    def test_gradient_checkpointing_gives_the_same(self, make_transformer: Make, name: str, choice: Any) -> None:
        terms = []
        for checkpointing in (False, True):
            problem = make_transformer(name, dropout=0.1, hypergradient=choice)
            if checkpointing:
                problem.model.activation_checkpointing_enable({"use_reentrant": False})
            vector = problem.run_to_upper_step()
            terms.append(problem.upper.hypergradient.implicit_term(vector, problem.lower))
        torch.testing.assert_close(*terms, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_batch_norm_statistics_stay(make_ridge: Make, choice: Any) -> None:
    ridge = make_ridge(choice)
    norm = nn.BatchNorm1d(20, dtype=torch.float64).requires_grad_(False)
    ridge.lower.module.add_module("norm", norm)
    loss = ridge.lower.training_step
    ridge.lower.training_step = lambda batch: loss((norm(batch[0]), batch[1]))
    ridge.engine.run()
    ridge.engine.train()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    assert before["num_batches_tracked"] == 4  # one a lower step: no replay has been counted
    ridge.upper.hypergradient.implicit_term((ridge.v(),), ridge.lower)
    assert_same(dict(norm.named_buffers()), before)


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "first_order"], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_vector_is_refused_before_anything_moves(make_ridge: Make, choice: Any, bad: float) -> None:
    ridge = make_ridge(choice)
    ridge.engine.run()
    before = fingerprint(ridge.lower.module)
    with pytest.raises(DivergedError, match="gradient of norm (nan|inf).* no parameter was moved"):
        ridge.upper.hypergradient.implicit_term((torch.full((20,), bad, dtype=torch.float64),), ridge.lower)
    assert_same(fingerprint(ridge.lower.module), before)


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
    built = build_hypergradient("bilora.engines.hypergradients.first_order:FirstOrder")
    assert build_hypergradient(built) is built
