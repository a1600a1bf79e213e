"""Adaptive and unrolled against finite differences of real optimizer steps, taken by a plain torch loop."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from betty.configs import Config
from torch import Tensor

from bilora.errors import SettingsError

Make = Callable[..., Any]
FEATURES = 20

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.3}),
    "adam": (torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.3, "betas": (0.8, 0.9)}),
    # With the usual epsilon of 1e-8 the first step's derivative is below what a difference resolves.
    "adamw, large epsilon": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.3, "eps": 0.1}),
    "sgd": (torch.optim.SGD, {"lr": 0.05}),
    "sgd, decay": (torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.3}),
    "sgd, momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.2}),
    "sgd, nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
}


def batches(ridge: Any) -> list[tuple[Tensor, Tensor]]:
    inputs, targets = ridge.lower_batches[0]
    return [(inputs[:20], targets[:20]), (inputs[20:], targets[20:]), (inputs[10:30], targets[10:30])]


def plain_run(ridge: Any, shift: Tensor, *, optimizer: str, steps: int, last: int, clip: float) -> Tensor:
    """Return L2, without its direct part, after ``steps`` real steps, the last ones with E shifted."""
    weights = ridge.start.clone().requires_grad_()
    kind, settings = OPTIMIZERS[optimizer]
    real = kind([weights], **settings)
    for index, (inputs, targets) in zip(range(steps), itertools.cycle(batches(ridge)), strict=False):
        log_penalty = ridge.E.detach() + (shift if index >= steps - last else 0.0)
        loss = ((inputs @ weights - targets) ** 2).mean() + (log_penalty.exp() * weights**2).sum()
        (weights.grad,) = torch.autograd.grad(loss, weights)
        if clip:
            torch.nn.utils.clip_grad_norm_([weights], clip)
        real.step()
    inputs, targets = ridge.upper_batches[0]
    return ((inputs @ weights.detach() - targets) ** 2).mean()


# By the words of a plain run: the ridge problem is the same in all tests.
MEASURED: dict[tuple[Any, ...], Tensor] = {}


def measured(ridge: Any, **how: Any) -> Tensor:
    """Return the derivative of :func:`plain_run` in the shift by central differences."""
    if (words := tuple(how.items())) not in MEASURED:
        size = 1e-5
        shifts = size * torch.eye(FEATURES).double()
        rows = [plain_run(ridge, shift, **how) - plain_run(ridge, -shift, **how) for shift in shifts]
        MEASURED[words] = torch.stack(rows) / (2 * size)
    return MEASURED[words]


def run_engine(make_ridge: Make, settings: dict[str, Any], *, optimizer: str, steps: int, clip: float) -> Any:
    """Return a ridge problem after its steps, with its implicit term and the lower parameters that it started from."""
    config = Config(unroll_steps=max(1, settings.get("steps", 1)), gradient_clipping=clip)
    ridge = make_ridge(settings, lower_config=config)
    kind, values = OPTIMIZERS[optimizer]
    ridge.lower.optimizer = kind(ridge.lower.module.parameters(), **values)
    ridge.lower.train_data_loader[0] = batches(ridge)
    ridge.lower.restart_loader()
    ridge.start = ridge.V.detach().clone()
    ridge.engine.train_iters = steps
    ridge.engine.run()
    (ridge.term,) = ridge.upper.hypergradient.implicit_term((ridge.v(),), ridge.lower)
    return ridge


@pytest.mark.parametrize("products", ["exact", "finite_difference"])
@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_adaptive_is_the_derivative_of_one_real_step(
    make_ridge: Make, optimizer: str, steps: int, clip: float, products: str
) -> None:
    how: dict[str, Any] = {"optimizer": optimizer, "steps": steps, "clip": clip}
    ridge = run_engine(make_ridge, {"name": "adaptive", "products": products}, **how)
    expected = measured(ridge, last=1, **how)
    # Of the first Adam step next to nothing remains (the step is the sign of the gradient): compared on the scale of v.
    scale = max(expected.norm().item(), 1e-3 * ridge.v().norm().item())
    assert (ridge.term - expected).norm().item() <= 1e-4 * scale


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("back", [1, 2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_unrolled_is_the_derivative_of_the_last_real_steps(
    make_ridge: Make, optimizer: str, back: int, clip: float
) -> None:
    how: dict[str, Any] = {"optimizer": optimizer, "steps": 2 * back, "clip": clip}
    ridge = run_engine(make_ridge, {"name": "unrolled", "steps": back, "products": "exact"}, **how)
    expected = measured(ridge, last=back, **how)
    assert (ridge.term - expected).norm().item() <= 1e-4 * expected.norm().item()


def test_one_unrolled_step_is_adaptive(make_ridge: Make) -> None:
    choices = {"name": "unrolled", "steps": 1}, {"name": "sama"}
    terms = [run_engine(make_ridge, choice, optimizer="adamw", steps=3, clip=0.0).term for choice in choices]
    torch.testing.assert_close(*terms, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        (torch.optim.RMSprop, "the lower optimizer is RMSprop; its step can be differentiated for SGD"),
        (partial(torch.optim.AdamW, amsgrad=True), "amsgrad"),
    ],
)
def test_other_optimizers_are_refused(make_ridge: Make, optimizer: Any, match: str) -> None:
    ridge = make_ridge({"name": "adaptive"})
    ridge.lower.optimizer = optimizer(ridge.lower.module.parameters())
    with pytest.raises(SettingsError, match=match):
        ridge.engine.run()


def test_looking_back_beyond_the_unroll_is_refused(make_ridge: Make) -> None:
    with pytest.raises(SettingsError, match="looks 3 lower steps back, but unroll_steps is 2"):
        make_ridge({"name": "unrolled", "steps": 3}, lower_config=Config(unroll_steps=2))
