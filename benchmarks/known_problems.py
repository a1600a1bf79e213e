"""Two bi-level problems whose implicit term is known: a ridge regression, and a tiny BERT with adapters and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from betty.configs import Config
from peft import get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from bilora import BiloraConfig
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.hypergradients.exact import ExactProducts
from bilora.engines.hypergradients.first_order import FirstOrder
from bilora.engines.hypergradients.neumann import largest_eigenvalue
from bilora.models.pretrained import quiet_peft
from bilora.problems import LowerProblem, Needs, UpperProblem
from bilora.problems.replay.lower_step import Around
from bilora.problems.variants.bilora import BiloraLower, BiloraSettings, BiloraUpper
from bilora.tensors import Tensors, restored

FEATURES = 20
ROWS = 40
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
RATES = {"sgd": 0.1, "adamw": 1e-3}
"""Lower learning rates of the transformer; the ridge problem's SGD takes one over the largest eigenvalue."""
STEPS = 4
"""Lower steps before the upper one, and so the longest way back for an unrolled derivative."""
ADAM_STEPS = 103
"""Steps on small batches that fill Adam's moments before the step at the lower optimum, where the gradient is zero."""
RECORDED = Needs(steps=STEPS, parameters_before=True, lower_gradient=True, upper_gradient=True, optimizer=True)
"""All that any approximation needs, so that every one of them is taken at the same point."""


@dataclass
class KnownProblem:
    """Two levels just before an upper step, v there, and the implicit term to hold an approximation against."""

    lower: LowerProblem  # its last steps recorded
    upper: UpperProblem
    vector: Tensors  # v, the gradient of the upper loss in the lower parameters
    reference: Callable[[Around], Tensors]  # the implicit term at the lower parameters before or after the last step
    curvature: float  # the largest eigenvalue of the lower Hessian


def make_engine(lower: LowerProblem, upper: UpperProblem) -> BilevelEngine:
    """Return an engine whose lower steps are recorded, and whose upper ones take no hypergradient and move nothing."""
    engine = BilevelEngine(lower, upper, steps=STEPS, hypergradient=FirstOrder(), device="cpu")
    lower.needs = RECORDED
    return engine


class Vector(nn.Module):
    """One float64 vector as a module."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.clone())


class RidgeLower(LowerProblem):
    """Mean squared error plus ``sum(exp(E) V^2)``: ridge regression with a log-regularisation a feature."""

    def training_step(self, batch: Any) -> Tensor:
        """Return L1."""
        inputs, targets = batch
        weights, log_penalty = self.module.value, self.upper.module.value
        loss: Tensor = ((inputs @ weights - targets) ** 2).mean() + (log_penalty.exp() * weights**2).sum()
        return loss


class RidgeUpper(UpperProblem):
    """Mean squared error on the other rows; nothing of it is trained, as the hypergradients are measured by hand."""

    may_idle = True

    def training_step(self, batch: Any) -> Tensor:
        """Return L2."""
        inputs, targets = batch
        loss: Tensor = ((inputs @ self.lower.module.value - targets) ** 2).mean()
        return loss


@dataclass(frozen=True)
class RidgeData:
    """Both sets of rows, E, the Hessian of L1, and its optimum."""

    lower: tuple[Tensor, Tensor]
    upper: tuple[Tensor, Tensor]
    log_penalty: Tensor
    hessian: Tensor
    optimum: Tensor

    @classmethod
    def draw(cls, condition: float, *, seed: int) -> RidgeData:
        """Draw rows and a penalty a feature."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        # Of the Hessian of the lower rows; the penalties add about a fifth of the smallest to it.
        eigenvalues = condition ** -torch.linspace(0, 1, FEATURES, dtype=torch.float64)
        axes = torch.linalg.qr(normal(FEATURES, FEATURES)).Q
        root = (eigenvalues / 2).sqrt()[:, None] * axes.T  # (features, features)
        below = ROWS**0.5 * torch.linalg.qr(normal(ROWS, FEATURES)).Q @ root
        above = normal(ROWS, FEATURES) @ root
        weights = normal(FEATURES)
        lower = (below, below @ weights + normal(ROWS))
        upper = (above, above @ weights + normal(ROWS))
        log_penalty = 0.5 * normal(FEATURES) - math.log(10 * condition)
        hessian = 2 * below.T @ below / ROWS + 2 * log_penalty.exp().diag()
        return cls(lower, upper, log_penalty, hessian, torch.linalg.solve(hessian, 2 * below.T @ lower[1] / ROWS))

    def v(self) -> Tensor:
        """Return d_V L2 at the lower optimum."""
        inputs, targets = self.upper
        residual: Tensor = inputs @ self.optimum - targets
        return 2 * inputs.T @ residual / ROWS

    def implicit_term(self) -> Tensor:
        """Return ``-d2_{E,V} L1 H^-1 v`` at the lower optimum, where the mixed derivative is diag(2 exp(E) V)."""
        solution: Tensor = torch.linalg.solve(self.hessian, self.v())
        return -2 * self.log_penalty.exp() * self.optimum * solution

    def small_batches(self) -> list[tuple[Tensor, Tensor]]:
        """Return the lower rows in batches of eight."""
        inputs, targets = self.lower
        return list(zip(torch.split(inputs, 8), torch.split(targets, 8), strict=True))


def make_ridge(*, condition: float, optimizer: str, seed: int) -> KnownProblem:
    """Return a ridge regression at its lower optimum, where the term of the implicit function theorem is exact."""
    data = RidgeData.draw(condition, seed=seed)
    curvature = float(torch.linalg.eigvalsh(data.hessian)[-1])
    below, above = Vector(data.optimum), Vector(data.log_penalty)
    rate = 1.0 / curvature if optimizer == "sgd" else RATES[optimizer]
    lower_optimizer = OPTIMIZERS[optimizer](below.parameters(), lr=rate, weight_decay=0.0)
    upper_optimizer = torch.optim.SGD(above.parameters(), lr=0.0)
    lower = RidgeLower("lower", Config(unroll_steps=STEPS), below, lower_optimizer, None, data.small_batches())
    upper = RidgeUpper("upper", Config(), above, upper_optimizer, None, [data.upper])
    engine = make_engine(lower, upper)
    if optimizer == "adamw":
        engine.train_iters = ADAM_STEPS
        engine.run()
        with torch.no_grad():
            below.value.copy_(data.optimum)
        engine.train_iters += 1
    lower.train_data_loader[0] = [data.lower]
    lower.restart_loader()
    engine.run()
    return KnownProblem(lower, upper, (data.v(),), lambda around: (data.implicit_term(),), curvature)


def make_bert(*, dropout: float, optimizer: str, seed: int) -> KnownProblem:
    """Return a random two-layer BERT with BILORA adapters after some lower steps; known is its one-step term."""
    torch.manual_seed(seed)
    config = BiloraConfig(task_type="SEQ_CLS", r=4, formulation="softmax", init_weights=False, dropout=dropout)
    with quiet_peft():
        model = get_peft_model(_tiny_bert(dropout), config)
    settings = BiloraSettings(rank=4, formulation="softmax")
    lower = BiloraLower("lower", Config(unroll_steps=STEPS), model, extra_config=settings)
    upper = BiloraUpper("upper", Config(), model, extra_config=settings)
    lower.optimizer = OPTIMIZERS[optimizer](lower.trainable_parameters(), lr=RATES[optimizer], weight_decay=0.0)
    upper.optimizer = torch.optim.SGD(upper.trainable_parameters(), lr=0.0)
    lower.train_data_loader = [_batch() for _ in range(STEPS)]
    upper.train_data_loader = [_batch()]
    engine = make_engine(lower, upper)
    engine.run()
    engine.train()  # which validation leaves off, and an upper step has on
    loss = upper.training_step_exec(upper.cur_batch)
    vector = torch.autograd.grad(loss, lower.trainable_parameters())
    with ExactProducts().at(lower, lower.recorded_step()) as point:
        curvature = largest_eigenvalue(point, like=vector, iterations=20)
    return KnownProblem(lower, upper, vector, lambda around: one_step_term(lower, vector, around), curvature)


def one_step_term(lower: LowerProblem, vector: Tensors, around: Around) -> Tensors:
    """Return ``-d2_{E,V} L1 . v`` by double backward, on the batch and under the masks of the last lower step."""
    step = lower.recorded_step()
    (micro_batch,) = step.micro_batches
    below = lower.trainable_parameters()
    with restored(below) as now, micro_batch.random_state.replayed():
        for parameter, value in zip(below, step.parameters(around, now=now), strict=True):
            parameter.data.copy_(value)
        gradient = torch.autograd.grad(lower.training_step_exec(micro_batch.batch), below, create_graph=True)
        along = torch.stack([(g * v).sum() for g, v in zip(gradient, vector, strict=True)]).sum()
        return tuple(-part for part in torch.autograd.grad(along, lower.upper_parameters()))


def _tiny_bert(dropout: float) -> nn.Module:
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        classifier_dropout=dropout,
        attn_implementation="eager",  # type: ignore[call-arg]  # taken by every config, named by none
    )
    return BertForSequenceClassification(config)


def _batch() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1, 64, (8, 12)), "labels": torch.randint(0, 2, (8,))}
