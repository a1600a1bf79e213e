"""Hypergradients of causal models on batches as generation has them: masked prompts, ends, padding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ridge import cosine
from torch import Tensor

from bilora.engines.hypergradients.darts import Darts
from bilora.engines.hypergradients.neumann import Neumann
from bilora.tensors import norm

MODELS = ("gpt2-answers", "llama")
RADIUS = 1e-3
"""Shorter than the default: the truncation error of a forward difference is in proportion to it."""


def term(make_transformer: Callable[..., Any], name: str, *, dropout: float, method: Any) -> tuple[Tensor, ...]:
    """Return the implicit term of the same problem, at the same point, under the same masks."""
    problem = make_transformer(name, dropout=dropout, hypergradient=method, adapter_dropout=dropout)
    return method.implicit_term(problem.run_to_upper_step(), problem.lower)  # type: ignore[no-any-return]


@pytest.mark.parametrize("scheme", ["central", "forward"])
@pytest.mark.parametrize("kind", [Darts, lambda **own: Neumann(terms=3, **own)], ids=["darts", "neumann"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", MODELS)
def test_finite_differences_agree_with_exact_products(
    make_transformer: Callable[..., Any], name: str, dropout: float, kind: Any, scheme: str
) -> None:
    exact = term(make_transformer, name, dropout=dropout, method=kind(products="exact"))
    approximate = kind(finite_difference=scheme, radius=RADIUS)
    found = term(make_transformer, name, dropout=dropout, method=approximate)
    assert cosine(found, exact) >= 0.999
    assert norm(found) == pytest.approx(norm(exact), rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_other_masks_give_another_term(make_transformer: Callable[..., Any], name: str) -> None:
    """What the replay is for: without dropout the exact term is not that of the masked model."""
    with_masks = term(make_transformer, name, dropout=0.1, method=Darts(products="exact"))
    without = term(make_transformer, name, dropout=0.0, method=Darts(products="exact"))
    assert cosine(with_masks, without) < 0.99


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_neither_loss_nor_gradient(make_transformer: Callable[..., Any], name: str) -> None:
    problem = make_transformer(name, dropout=0.0)
    (batch,) = problem.upper.train_data_loader[0]
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    longer = {key: torch.nn.functional.pad(value, (0, 5), value=fill[key]) for key, value in batch.items()}
    parameters = problem.upper.trainable_parameters()
    losses = [problem.upper.training_step_exec(each) for each in (batch, longer)]
    torch.testing.assert_close(losses[1], losses[0])
    short, long = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses)
    torch.testing.assert_close(long, short)
