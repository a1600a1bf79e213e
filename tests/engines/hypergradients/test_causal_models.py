"""Hypergradients of causal models on batches as generation has them: masked prompts, ends, padding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ridge import cosine

from bilora.engines.hypergradients.neumann import Neumann
from bilora.tensors import norm

MODELS = ("gpt2-answers", "llama")


@pytest.mark.parametrize("scheme", ["central", "forward"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", MODELS)
def test_finite_differences_agree_with_exact_products(
    make_transformer: Callable[..., Any], name: str, dropout: float, scheme: str
) -> None:
    # A radius shorter than the default: the truncation error of a forward difference is in proportion to it.
    methods = Neumann(terms=3, finite_difference=scheme, radius=1e-3), Neumann(terms=3, products="exact")
    terms = []
    for method in methods:  # the same problem, at the same point, under the same masks
        problem = make_transformer(name, dropout=dropout, hypergradient=method, adapter_dropout=dropout)
        terms.append(method.implicit_term(problem.run_to_upper_step(), problem.lower))
    assert cosine(*terms) >= 0.999
    assert norm(terms[0]) == pytest.approx(norm(terms[1]), rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_neither_loss_nor_gradient(make_transformer: Callable[..., Any], name: str) -> None:
    problem = make_transformer(name, dropout=0.0)
    (batch,) = problem.upper.train_data_loader[0]
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    longer = {key: torch.nn.functional.pad(value, (0, 5), value=fill[key]) for key, value in batch.items()}
    parameters = problem.upper.trainable_parameters()
    losses = [problem.upper.training_step_exec(rows) for rows in (batch, longer)]
    torch.testing.assert_close(losses[1], losses[0])
    short, long = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses)
    torch.testing.assert_close(long, short)
