"""R1 and R2 against numpy, closed forms and finite differences."""

import math

import numpy
import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from bilora import BiloraConfig
from bilora.adapter.regularizers import binary_entropy, binary_entropy_penalty, orthogonality, orthogonality_penalty
from bilora.errors import LevelsError, SettingsError


def _orthonormal(rows: int, columns: int) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, columns, dtype=torch.float64))


def _two_sizes(**settings: object) -> PeftModel:
    """Four adapted layers of two shapes and three ranks, with random P, Q and E."""
    base = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(4, 6))
    settings = {"formulation": "softmax", "normalized": False, **settings}
    config = BiloraConfig(r=3, target_modules=["0", "1", "2", "3"], rank_pattern={"1": 2, "3": 4}, **settings)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model


def _layers(model: PeftModel) -> list[nn.Module]:
    return list(model.get_base_model())


def _numpy_orthogonality(P: Tensor, Q: Tensor) -> float:
    eye, sides = numpy.eye(len(Q)), [vectors.detach().double().numpy() for vectors in (P.T, Q)]
    return float(sum(numpy.linalg.norm(rows @ rows.T - eye, "fro") ** 2 for rows in sides))


def test_orthogonality_equals_numpy() -> None:
    P, Q = torch.randn(7, 3, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    assert orthogonality(P, Q).item() == pytest.approx(_numpy_orthogonality(P, Q), rel=1e-12)


def test_orthogonality_is_zero_for_orthonormal_vectors_and_stationary_at_zero() -> None:
    P, Q = _orthonormal(7, 3), _orthonormal(3, 5)
    assert orthogonality(P, Q).item() < 1e-28
    zero = torch.zeros_like(P, requires_grad=True)
    value = orthogonality(zero, Q)
    assert value.item() == pytest.approx(3.0)
    assert not torch.autograd.grad(value, zero)[0].any()


def test_second_derivative_at_orthonormality_equals_finite_differences() -> None:
    P, Q = _orthonormal(6, 3).requires_grad_(), _orthonormal(3, 5).requires_grad_()
    direction = (torch.randn_like(P), torch.randn_like(Q))

    def gradient(step: float) -> list[Tensor]:
        at = [(side + step * way).detach().requires_grad_() for side, way in zip((P, Q), direction, strict=True)]
        return list(torch.autograd.grad(orthogonality(*at), at))

    grads = torch.autograd.grad(orthogonality(P, Q), (P, Q), create_graph=True)
    products = torch.autograd.grad(grads, (P, Q), grad_outputs=direction)
    for product, plus, minus in zip(products, gradient(1e-5), gradient(-1e-5), strict=True):
        assert product.norm() > 1.0
        torch.testing.assert_close(product, (plus - minus) / 2e-5, rtol=1e-7, atol=1e-7)


def test_orthogonality_penalty_is_the_mean_over_layers_of_all_shapes() -> None:
    model = _two_sizes()
    penalties = [_numpy_orthogonality(*layer.singular_vectors("default")) for layer in _layers(model)]
    assert orthogonality_penalty(model).item() == pytest.approx(sum(penalties) / 4, rel=1e-5)


def test_orthogonality_penalty_reaches_every_vector_and_no_value() -> None:
    model = _two_sizes()
    orthogonality_penalty(model).backward()
    for layer in _layers(model):
        P, Q = layer.bilora_P["default"], layer.bilora_Q["default"]
        expected = 4 * P @ (P.T @ P - torch.eye(P.shape[1])) / 4
        torch.testing.assert_close(P.grad, expected)
        assert Q.grad is not None
        assert layer.bilora_E["default"].grad is None


def test_normalized_vectors_have_no_length_to_penalise() -> None:
    model = _two_sizes(normalized=True, formulation="real")
    before = orthogonality_penalty(model)
    with torch.no_grad():
        for layer in _layers(model):
            layer.bilora_P["default"].mul_(7.0)
    torch.testing.assert_close(orthogonality_penalty(model), before)
    unit = nn.functional.normalize
    stored = [(layer.bilora_P["default"], layer.bilora_Q["default"]) for layer in _layers(model)]
    penalties = [_numpy_orthogonality(unit(P, dim=0), unit(Q, dim=1)) for P, Q in stored]
    assert before.item() == pytest.approx(sum(penalties) / 4, rel=1e-5)


def test_only_active_adapters_count() -> None:
    model = _two_sizes()
    alone = orthogonality_penalty(model)
    model.add_adapter("second", BiloraConfig(r=2, normalized=False, target_modules=["0"]))
    torch.testing.assert_close(orthogonality_penalty(model), alone)
    model.set_adapter("second")
    assert orthogonality_penalty(model).item() == pytest.approx(2.0, abs=1e-5)  # P = 0, in one layer
    model.base_model.set_adapter(["default", "second"])
    assert orthogonality_penalty(model).item() == pytest.approx((4 * alone.item() + 2.0) / 5, rel=1e-5)


def test_autocast_leaves_the_penalty_in_float32() -> None:
    model = _two_sizes()
    outside = orthogonality_penalty(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = orthogonality_penalty(model)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_entropy_equals_its_formula_and_gradient() -> None:
    values = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64, requires_grad=True)
    expected = -sum(s * math.log(s) + (1 - s) * math.log(1 - s) for s in (0.1, 0.5, 0.8))
    entropy = binary_entropy(values)
    assert entropy.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(entropy, values)
    torch.testing.assert_close(gradient, ((1 - values) / values).log())
    assert torch.autograd.gradgradcheck(binary_entropy, values)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-12, 1.0 - 1e-7])
def test_entropy_is_finite_at_the_ends_and_so_are_its_derivatives(value: float) -> None:
    values = torch.tensor([value], requires_grad=True)
    entropy = binary_entropy(values)
    (gradient,) = torch.autograd.grad(entropy, values, create_graph=True)
    (second,) = torch.autograd.grad(gradient, values, allow_unused=True, materialize_grads=True)
    assert 0 <= entropy.item() < 2e-5
    assert bool(gradient.isfinite().all()) and bool(second.isfinite().all())


@pytest.mark.parametrize("raw", [-200.0, -20.0, -14.0, 14.0, 20.0, 200.0])
def test_entropy_of_a_saturated_sigmoid_has_finite_derivatives(raw: float) -> None:
    E = torch.tensor([raw], requires_grad=True)
    (gradient,) = torch.autograd.grad(binary_entropy(torch.sigmoid(E)), E, create_graph=True)
    (second,) = torch.autograd.grad(gradient, E)
    # dH/dE = -E s (1 - s), next to nothing out here.
    assert max(abs(gradient.item()), abs(second.item())) < 2e-5


def test_entropy_penalty_is_the_mean_over_layers() -> None:
    model = _two_sizes(formulation="binary")
    penalties = [binary_entropy(layer.singular_values("default")).item() for layer in _layers(model)]
    assert binary_entropy_penalty(model).item() == pytest.approx(sum(penalties) / 4, rel=1e-6)
    binary_entropy_penalty(model).backward()
    assert all(layer.bilora_E["default"].grad is not None for layer in _layers(model))
    assert all(layer.bilora_P["default"].grad is None for layer in _layers(model))


@pytest.mark.parametrize("formulation", ["real", "softmax"])
def test_entropy_penalty_refuses_values_outside_the_unit_interval(formulation: str) -> None:
    with pytest.raises(SettingsError, match="not defined"):
        binary_entropy_penalty(_two_sizes(formulation=formulation))


@pytest.mark.parametrize("penalty", [orthogonality_penalty, binary_entropy_penalty])
def test_a_model_without_adapters_has_no_penalty(penalty: object) -> None:
    with pytest.raises(LevelsError, match="get_peft_model"):
        penalty(nn.Sequential(nn.Linear(2, 2)))  # type: ignore[operator]
