"""The layer against dense algebra: starts, forward, precision, merging, second derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bilora.adapter.config import BiloraConfig
from bilora.adapter.layer import BiloraLinear
from bilora.adapter.singular_values import FORMULATIONS

IN, OUT, RANK, ALPHA = 6, 5, 3, 12.0
BASES: dict[str, Callable[[], nn.Module]] = {"linear": lambda: nn.Linear(IN, OUT), "conv1d": lambda: Conv1D(OUT, IN)}
# Every formulation as it may start; softmax cannot start near zero, so it cannot be normalized.
STARTS: dict[str, dict[str, object]] = {
    **{name: {"formulation": name} for name in FORMULATIONS},
    "real, normalized": {"formulation": "real", "normalized": True},
    "real, adalora": {"formulation": "real", "init_weights": "adalora"},
}
EVERY = {**STARTS, "binary, normalized": {"formulation": "binary", "normalized": True, "start_value": 0.01}}


def _layer(base: nn.Module | None = None, **settings: object) -> BiloraLinear:
    config = BiloraConfig(r=RANK, **{"formulation": "softmax", "normalized": False, **settings})
    layer = base or nn.Linear(IN, OUT)
    return BiloraLinear(layer, "default", config=config, name="query", rank=RANK, alpha=ALPHA)


def _randomise(layer: BiloraLinear, adapter: str = "default") -> BiloraLinear:
    with torch.no_grad():
        for dictionary in (layer.bilora_P, layer.bilora_Q, layer.bilora_E):
            dictionary[adapter].normal_()
    return layer


def _dense(layer: BiloraLinear, adapter: str = "default") -> Tensor:
    """The update (out, in) by its definition, one rank-one term after the other."""
    P, Q, E = (parts[adapter].detach() for parts in (layer.bilora_P, layer.bilora_Q, layer.bilora_E))
    settings = layer.bilora_settings[adapter]
    values = settings.formulation.values(E)
    terms = torch.zeros(OUT, IN)
    for j in range(len(values)):
        left, right = P[:, j], Q[j]
        if settings.normalized:
            left, right = left / left.norm(), right / right.norm()
        terms += values[j] * torch.outer(left, right)
    return ALPHA / RANK * terms


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("start", STARTS)
def test_starts_as_the_base_layer(start: str, base: str) -> None:
    layer, x = _layer(BASES[base](), **STARTS[start]), torch.randn(4, IN)
    assert torch.equal(layer(x), layer.base_layer(x))
    assert layer.singular_values("default").dtype == torch.float32


def test_normalized_binary_starts_near_the_base_layer() -> None:
    layer, x = _layer(**EVERY["binary, normalized"]), torch.randn(4, IN)
    torch.testing.assert_close(layer.singular_values("default"), torch.full((RANK,), 0.01))
    change = (layer(x) - layer.base_layer(x)).norm()
    assert 0 < change <= 0.01 * ALPHA / RANK * x.norm()


def test_default_start_is_zero_times_orthonormal_rows() -> None:
    layer = _layer()
    assert not layer.bilora_P["default"].any()
    Q = layer.bilora_Q["default"]
    torch.testing.assert_close(Q @ Q.T, torch.eye(RANK))


def test_adalora_start_is_small_normal_vectors_and_values_of_zero() -> None:
    config = BiloraConfig(r=8, formulation="real", init_weights="adalora")
    wide = BiloraLinear(nn.Linear(2000, 1500), "default", config=config, name="x", rank=8, alpha=8.0)
    assert not wide.singular_values("default").any()
    for vectors in (wide.bilora_P["default"], wide.bilora_Q["default"]):
        assert vectors.std().item() == pytest.approx(0.02, rel=0.03)
        assert abs(vectors.mean().item()) < 1e-3


@pytest.mark.parametrize("start", EVERY)
def test_learns_from_its_start(start: str) -> None:
    """In the first step of either level something moves, so that no start is a saddle for good."""
    layer = _layer(**EVERY[start])
    layer(torch.randn(4, IN)).square().sum().backward()
    vectors, values = layer.bilora_P["default"].grad, layer.bilora_E["default"].grad
    assert vectors.any() or values.any()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("start", EVERY)
def test_forward_and_update_equal_the_definition(start: str, base: str) -> None:
    layer, x = _randomise(_layer(BASES[base](), **EVERY[start])), torch.randn(2, 4, IN)
    update = _dense(layer)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ update.T)
    torch.testing.assert_close(layer.get_delta_weight("default"), update.T if base == "conv1d" else update)
    P, Q = layer.singular_vectors("default")
    torch.testing.assert_close(ALPHA / RANK * P * layer.singular_values("default") @ Q, update)


def test_a_direction_of_length_zero_gives_zero_not_nan() -> None:
    layer = _randomise(_layer(**EVERY["real, normalized"]))
    with torch.no_grad():
        layer.bilora_P["default"][:, 1] = 0
    layer(torch.randn(4, IN)).sum().backward()
    assert bool(layer.get_delta_weight("default").isfinite().all())
    assert bool(layer.bilora_P["default"].grad.isfinite().all())


@pytest.mark.parametrize("start", EVERY)
def test_derivatives_equal_finite_differences(start: str) -> None:
    layer = _randomise(_layer(**EVERY[start])).double()
    x = torch.randn(3, IN, dtype=torch.float64)
    names = ["bilora_P.default", "bilora_Q.default", "bilora_E.default"]
    values = [dict(layer.named_parameters())[name].detach().requires_grad_() for name in names]

    def run(*new: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, new, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, values)
    assert torch.autograd.gradgradcheck(run, values)


def test_the_base_result_is_not_changed_in_place() -> None:
    layer, seen = _randomise(_layer()), []
    layer.base_layer.register_forward_hook(lambda _module, _input, output: seen.append((output, output.clone())))
    layer(torch.randn(4, IN))
    (output, copy) = seen[0]
    assert torch.equal(output, copy)
    assert output._version == 0


def test_dropout_is_on_the_branch_only_and_only_in_training() -> None:
    layer, x = _layer(dropout=0.5, init_weights=False), torch.randn(64, IN)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    with torch.no_grad():
        layer.bilora_P["default"].zero_()
    assert torch.equal(layer(x), layer.base_layer(x))


def test_values_stay_in_float32_on_a_bfloat16_base() -> None:
    layer = _layer(nn.Linear(IN, OUT).to(torch.bfloat16))
    assert layer.bilora_P["default"].dtype == torch.bfloat16  # PEFT casts these up again on request
    assert layer.bilora_E["default"].dtype == torch.float32
    out = layer(torch.randn(4, IN, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.bilora_E["default"].grad.dtype == torch.float32


def test_default_dtype_does_not_reach_the_start() -> None:
    base = nn.Linear(IN, OUT)
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer = _layer(base)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}


def test_autocast_computes_in_bfloat16_with_values_in_float32() -> None:
    layer, x = _randomise(_layer()), torch.randn(4, IN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
        assert layer.coefficients("default").dtype == torch.float32
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.3)


@pytest.mark.parametrize("start", EVERY)
def test_compiles_without_graph_breaks(start: str) -> None:
    layer, x = _randomise(_layer(**EVERY[start])), torch.randn(4, IN)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
