"""BiDoRA's direction and magnitude against PEFT's own merged weights, and its regularizer against the formula."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import GPT2Config, GPT2Model

from bilora import LevelsError, trainable_parameters
from bilora.problems.variants.bidora import BidoraLower, BidoraSettings, direction, gram_penalty, magnitude_parameters

Adapted = Callable[..., PeftModel]


@pytest.fixture
def moved(adapted: Adapted) -> PeftModel:
    """A tiny BERT whose adapter is no longer at its start."""
    model = adapted("bidora")
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def test_magnitude_times_direction_is_the_weight(moved: PeftModel) -> None:
    for layer in layers(moved):
        m = layer.lora_magnitude_vector["default"].weight
        expected = m[:, None] * direction(layer, "default")
        layer.merge()
        torch.testing.assert_close(layer.get_base_layer().weight, expected, rtol=1e-5, atol=1e-6)


def test_magnitude_times_direction_is_the_weight_of_a_conv1d() -> None:
    base = GPT2Model(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    config = LoraConfig(r=2, target_modules=["c_attn"], use_dora=True, fan_in_fan_out=True, init_lora_weights=False)
    (layer,) = layers(get_peft_model(base, config))
    m = layer.lora_magnitude_vector["default"].weight
    assert m.shape == (24,)
    expected = (m[:, None] * direction(layer, "default")).T
    layer.merge()
    torch.testing.assert_close(layer.get_base_layer().weight, expected.detach(), rtol=1e-5, atol=1e-6)


def test_magnitudes_start_at_the_norms_of_the_base_weights(adapted: Adapted) -> None:
    for layer in layers(adapted("bidora")):
        norms = layer.get_base_layer().weight.norm(dim=1)
        torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, norms, rtol=1e-5, atol=1e-6)


def test_penalty_is_the_mean_gram_distance_of_unit_rows(moved: PeftModel) -> None:
    distances = []
    for layer in layers(moved):
        W = layer.get_base_layer().weight + layer.scaling["default"] * (
            layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        )
        V = W / W.norm(dim=1, keepdim=True)
        off_diagonal = V @ V.T - torch.diag(torch.diag(V @ V.T))
        distances.append(off_diagonal.square().sum().sqrt().item())
    assert gram_penalty(moved).item() == pytest.approx(sum(distances) / len(distances), rel=1e-5)
    level = BidoraLower("lower", None, moved, extra_config=BidoraSettings(gram=0.5))
    assert (level.penalty() or torch.zeros(())).item() == pytest.approx(0.5 * gram_penalty(moved).item())
    assert BidoraLower("lower", None, moved, extra_config=BidoraSettings(gram=0.0)).penalty() is None


def test_penalty_moves_the_direction_only(moved: PeftModel) -> None:
    gram_penalty(moved).backward()
    above = magnitude_parameters(moved)
    named = dict(moved.named_parameters())
    touched = {name for name, value in named.items() if value.grad is not None and value.grad.abs().sum() > 0}
    assert touched == {name for name in named if "lora_A" in name or "lora_B" in name}
    assert len(above) == len(layers(moved))


def test_a_model_without_magnitudes_is_refused(adapted: Adapted) -> None:
    with pytest.raises(LevelsError, match="no trainable DoRA magnitude; give it an adapter with use_dora=True"):
        magnitude_parameters(adapted("lora"))
