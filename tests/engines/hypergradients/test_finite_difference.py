"""Finite differences over half-precision parameters: displaced in float32, put back bit for bit."""

from typing import Any

import pytest
import torch
from betty.configs import Config
from peft import get_peft_model
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
CENTRAL = Darts(finite_difference="central")
WIDE = Darts(finite_difference="central", radius=1.0)


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


def _cubic(**settings: Any) -> CubicLower:
    module = Cubic()
    lower, upper = CubicLower("lower", Config(), module), CubicUpper("upper", Config(), module)
    for level in (lower, upper):
        level.optimizer = torch.optim.SGD(level.trainable_parameters(), lr=0.0)
        level.train_data_loader = [{"x": torch.ones(1)}]
    BilevelEngine(
        lower, upper, steps=1, hypergradient=Darts(**{"finite_difference": "central", **settings}), device="cpu"
    ).run()
    return lower


def test_a_step_below_the_rounding_of_bfloat16_is_seen() -> None:
    # Each component moves by 0.01 / sqrt(50) = 0.0014; bfloat16 numbers next to 1 are 0.0078 apart.
    lower = _cubic()
    vector = torch.ones(SIZE, dtype=torch.bfloat16)
    (term,) = CENTRAL.implicit_term((vector,), lower)
    expected = -3 * lower.module.below.detach().float() ** 2
    torch.testing.assert_close(term, expected, rtol=1e-3, atol=0)


def test_the_parameters_are_the_tensors_they_were() -> None:
    lower = _cubic()
    storage, bits = lower.module.below.data_ptr(), lower.module.below.detach().clone()
    CENTRAL.implicit_term((torch.ones(SIZE, dtype=torch.bfloat16),), lower)
    assert lower.module.below.dtype == torch.bfloat16
    assert lower.module.below.data_ptr() == storage
    assert torch.equal(lower.module.below, bits)


def test_they_are_put_back_when_a_pass_fails() -> None:
    layer = nn.Linear(2, 2).to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="out of memory"), in_float32(layer, list(layer.parameters())):
        raise RuntimeError("out of memory")
    assert layer.weight.dtype == torch.bfloat16
    assert layer(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_forward_differences_refuse_a_gradient_rounded_to_half_precision() -> None:
    with pytest.raises(SettingsError, match="use finite_difference: central"):
        _cubic(finite_difference="forward")


def bert_levels(dtype: torch.dtype, *, whole: bool, rate: float = 0.0) -> tuple[BiloraLower, BiloraUpper]:
    """Return the levels of a tiny BERT whose base and head, or the whole of it with E, have the type."""
    torch.manual_seed(0)
    config = BiloraConfig(task_type="SEQ_CLS", r=4, formulation="softmax", init_weights=False)
    model = get_peft_model(tiny_bert(0.0).to(dtype), config)
    model, settings = model.to(dtype) if whole else model, BiloraSettings(rank=4, formulation="softmax")
    lower = BiloraLower("lower", Config(), model, extra_config=settings)
    upper = BiloraUpper("upper", Config(), model, extra_config=settings)
    tokens = torch.randint(1, 64, (8, 12), generator=torch.Generator().manual_seed(1))
    for level in (lower, upper):
        level.optimizer = torch.optim.SGD(level.trainable_parameters(), lr=rate)
        level.train_data_loader = [{"input_ids": tokens, "labels": tokens[:, 0] % 2}]
    return lower, upper


def bert_term(dtype: torch.dtype) -> Tensor:
    lower, upper = bert_levels(dtype, whole=False)
    BilevelEngine(lower, upper, steps=1, hypergradient=WIDE, device="cpu").run()
    v = torch.autograd.grad(upper.training_step_exec(upper.train_data_loader[0][0]), lower.trainable_parameters())
    return torch.cat([each.flatten() for each in WIDE.implicit_term(v, lower)]).double()


def test_a_bfloat16_base_with_its_head_gives_nearly_the_float32_term() -> None:
    wide, half = bert_term(torch.float32), bert_term(torch.bfloat16)
    assert float(torch.nn.functional.cosine_similarity(wide, half, dim=0)) > 0.9


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_a_model_cast_whole_to_bfloat16_takes_its_upper_step(name: str) -> None:
    lower, upper = bert_levels(torch.bfloat16, whole=True, rate=1.0)
    before = [E.detach().clone() for E in upper.trainable_parameters()]
    chosen = CENTRAL if name == "darts" else name  # forward differences refuse a lower level in bfloat16
    BilevelEngine(lower, upper, steps=1, hypergradient=chosen, device="cpu").run()
    for E, start in zip(upper.trainable_parameters(), before, strict=True):
        assert E.dtype == torch.bfloat16
        assert E.isfinite().all() and not torch.equal(E, start)
