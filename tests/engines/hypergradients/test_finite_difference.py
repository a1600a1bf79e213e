"""Finite differences over half-precision parameters: displaced in float32, put back bit for bit."""

from typing import Any

import pytest
import torch
from betty.configs import Config
from peft import get_peft_model
from ridge import cosine
from tiny_models import tiny_bert
from torch import Tensor, nn

from bilora import BiloraConfig
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.hypergradients.catalog import HYPERGRADIENTS
from bilora.engines.hypergradients.darts import Darts
from bilora.engines.hypergradients.finite_difference import in_float32
from bilora.errors import SettingsError
from bilora.problems import LowerProblem, UpperProblem
from bilora.problems.variants.bilora import BiloraLower, BiloraSettings, BiloraUpper

SIZE = 50
CENTRAL = Darts(finite_difference="central", scale="one")
# Levels that stand still, at a rate of zero, have a term all the same; the engine warns of the scale.
pytestmark = pytest.mark.filterwarnings("ignore:hypergradient darts has scale")


class Cubic(nn.Module):
    """V in bfloat16, E in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Parameter(torch.linspace(0.5, 2.0, SIZE).to(torch.bfloat16))
        self.above = nn.Parameter(torch.linspace(-1.0, 1.0, SIZE))


class CubicLower(LowerProblem):
    """L1 = sum E V^3, so that d2_{E,V} L1 x = 3 V^2 x."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"below": self.module.below}

    def training_step(self, batch: Any) -> Tensor:
        return (self.module.above * self.module.below.float() ** 3).sum()


class CubicUpper(UpperProblem):
    """L2 = sum V, so that v is one everywhere."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        return {"above": self.module.above}

    def training_step(self, batch: Any) -> Tensor:
        return self.module.below.float().sum() + 0.0 * self.module.above.sum()


def step_once(lower: LowerProblem, upper: UpperProblem, batch: Any, hypergradient: Any, *, rate: float = 0.0) -> None:
    """Let both levels step once on a batch, with SGD."""
    for level in (lower, upper):
        level.optimizer = torch.optim.SGD(level.trainable_parameters(), lr=rate)
        level.train_data_loader = [batch]
    BilevelEngine(lower, upper, steps=1, hypergradient=hypergradient, device="cpu").run()


def cubic(hypergradient: Darts) -> CubicLower:
    module = Cubic()
    lower, upper = CubicLower("lower", Config(), module), CubicUpper("upper", Config(), module)
    step_once(lower, upper, {"x": torch.ones(1)}, hypergradient)
    return lower


def test_a_step_below_the_rounding_of_bfloat16_is_seen_and_the_parameters_are_the_tensors_they_were() -> None:
    # Each component moves by 0.01 / sqrt(50) = 0.0014; bfloat16 numbers next to 1 are 0.0078 apart.
    lower = cubic(CENTRAL)
    storage, bits = lower.module.below.data_ptr(), lower.module.below.detach().clone()
    (term,) = CENTRAL.implicit_term((torch.ones(SIZE, dtype=torch.bfloat16),), lower)
    torch.testing.assert_close(term, -3 * bits.float() ** 2, rtol=1e-3, atol=0)
    assert lower.module.below.data_ptr() == storage
    assert torch.equal(lower.module.below, bits) and lower.module.below.dtype == torch.bfloat16


def test_they_are_put_back_when_a_pass_fails() -> None:
    layer = nn.Linear(2, 2).to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="out of memory"), in_float32(layer, list(layer.parameters())):
        raise RuntimeError("out of memory")
    assert layer.weight.dtype == torch.bfloat16
    assert layer(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_forward_differences_refuse_a_gradient_rounded_to_half_precision() -> None:
    with pytest.raises(SettingsError, match="'below' is torch.bfloat16.* use finite_difference: central"):
        cubic(Darts(finite_difference="forward"))


def bert_levels(dtype: torch.dtype, *, whole: bool) -> tuple[BiloraLower, BiloraUpper, dict[str, Tensor]]:
    """Return the levels of a tiny BERT whose base and head, or the whole of it with E, have the type, and a batch."""
    torch.manual_seed(0)
    config = BiloraConfig(task_type="SEQ_CLS", r=4, formulation="softmax", init_weights=False)
    model = get_peft_model(tiny_bert(0.0).to(dtype), config)
    model, settings = model.to(dtype) if whole else model, BiloraSettings(rank=4, formulation="softmax")
    lower = BiloraLower("lower", Config(), model, extra_config=settings)
    upper = BiloraUpper("upper", Config(), model, extra_config=settings)
    tokens = torch.randint(1, 64, (8, 12), generator=torch.Generator().manual_seed(1))
    return lower, upper, {"input_ids": tokens, "labels": tokens[:, 0] % 2}


def test_a_bfloat16_base_with_its_head_gives_nearly_the_float32_term() -> None:
    terms = []
    for dtype in (torch.float32, torch.bfloat16):
        lower, upper, batch = bert_levels(dtype, whole=False)
        method = Darts(finite_difference="central", radius=1.0, scale="one")
        step_once(lower, upper, batch, method)
        v = torch.autograd.grad(upper.training_step_exec(batch), lower.trainable_parameters())
        terms.append(method.implicit_term(v, lower))
    assert cosine(*terms) > 0.9


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_a_model_cast_whole_to_bfloat16_takes_its_upper_step(name: str) -> None:
    lower, upper, batch = bert_levels(torch.bfloat16, whole=True)
    before = [E.detach().clone() for E in upper.trainable_parameters()]
    # Forward differences refuse a lower level in bfloat16.
    step_once(lower, upper, batch, CENTRAL if name == "darts" else name, rate=1.0)
    for E, start in zip(upper.trainable_parameters(), before, strict=True):
        assert E.dtype == torch.bfloat16
        assert E.isfinite().all() and not torch.equal(E, start)
