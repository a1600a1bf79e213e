"""Merging into plain, low-precision and quantised weights."""

from typing import Any

import pytest
import torch
from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend, QuantizationBackend
from torch import nn
from transformers.pytorch_utils import Conv1D

from bilora.adapter.config import BiloraConfig
from bilora.adapter.layer import BiloraLinear
from bilora.adapter.merging import quantization_of

IN, OUT, RANK = 6, 5, 3
STEP = 1 / 64


def _layer(base: nn.Module) -> BiloraLinear:
    config = BiloraConfig(r=RANK, normalized=False, init_weights=False)
    return BiloraLinear(base, "default", config=config, name="query", rank=RANK, alpha=1.0)


@pytest.mark.parametrize("base", [nn.Linear(IN, OUT), Conv1D(OUT, IN)], ids=["linear", "conv1d"])
@pytest.mark.parametrize("safe", [False, True])
def test_merged_and_unmerged_again(base: nn.Module, safe: bool) -> None:
    layer, x, weight = _layer(base), torch.randn(4, IN), base.weight.detach().clone()
    expected = layer(x)
    layer.merge(safe_merge=safe)
    assert layer.merged_adapters == ["default"]
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.base_layer(x), expected)
    layer.unmerge()
    torch.testing.assert_close(base.weight, weight)
    torch.testing.assert_close(layer(x), expected)


def test_disabling_takes_a_merged_update_out() -> None:
    base = nn.Linear(IN, OUT)
    layer, x = _layer(base), torch.randn(4, IN)
    expected = base(x)
    layer.merge()
    layer.enable_adapters(False)
    torch.testing.assert_close(layer(x), expected)


def test_merging_twice_or_unmerging_nothing_is_told() -> None:
    layer = _layer(nn.Linear(IN, OUT))
    with pytest.warns(UserWarning, match="nothing to take out"):
        layer.unmerge()
    layer.merge()
    weight = layer.weight.clone()
    with pytest.warns(UserWarning, match="already merged"):
        layer.merge()
    assert torch.equal(layer.weight, weight)


def test_two_adapters_merge_and_unmerge_together() -> None:
    layer, x = _layer(nn.Linear(IN, OUT)), torch.randn(4, IN)
    layer.update_layer("second", config=BiloraConfig(formulation="softmax", init_weights=False), rank=2, alpha=2.0)
    layer.set_adapter(["default", "second"])
    expected = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), expected)
    layer.unmerge()
    torch.testing.assert_close(layer(x), expected)


def test_safe_merge_refuses_what_is_not_finite_and_leaves_the_weight() -> None:
    layer = _layer(nn.Linear(IN, OUT))
    weight = layer.weight.clone()
    with torch.no_grad():
        layer.bilora_E["default"][0] = float("nan")
    with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.weight, weight)
    assert not layer.merged


def test_a_bfloat16_weight_is_rounded_once() -> None:
    base = nn.Linear(IN, OUT).to(torch.bfloat16)
    layer = _layer(base)
    exact = base.weight.float() + layer.get_delta_weight("default").detach()
    layer.merge()
    assert torch.equal(base.weight, exact.to(torch.bfloat16))


class Rounded(nn.Module):
    """A stand-in for a quantised layer: whole multiples of a step, as integers."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = IN, OUT
        self.register_buffer("weight", torch.randint(-40, 40, (OUT, IN), dtype=torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight.float() * STEP).T


class RoundedBackend(QuantizationBackend):
    layer_type = "linear"
    supports_merge = True
    backend_name = "rounded"
    cloned = 0

    def get_base_weight(self, base_layer: Any) -> torch.Tensor:
        return base_layer.weight.float() * STEP

    def set_base_weight(self, peft_layer: Any, weight_data: torch.Tensor) -> None:
        peft_layer.get_base_layer().weight = (weight_data / STEP).round().to(torch.int8)

    def maybe_clone_base_result(self, x: torch.Tensor) -> torch.Tensor:
        self.cloned += 1
        return x.clone()


def _resolve_to(backend: QuantizationBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bilora.adapter.merging.resolve_quantization_backend",
        lambda layer, **_: backend if isinstance(layer, Rounded) else None,
    )


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT knows the real ones
def test_quantised_weight_is_merged_through_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = RoundedBackend()
    _resolve_to(backend, monkeypatch)
    layer, x = _layer(Rounded()), torch.randn(4, IN)
    expected = layer(x)
    torch.testing.assert_close(expected, layer.base_layer(x) + x @ layer.get_delta_weight("default").T)
    assert backend.cloned == 1
    weight = layer.base_layer.weight.clone()
    with pytest.warns(UserWarning, match="rounded to rounded again"):
        layer.merge()
    assert layer.base_layer.weight.dtype == torch.int8
    # Each weight is off by half a step at most.
    assert (layer(x) - expected).abs().max() <= x.abs().sum(1).max() * STEP / 2 * 1.001
    assert "rounded" in layer.extra_repr()
    with pytest.warns(UserWarning, match="rounded to rounded again"):
        layer.unmerge()
    assert (layer.base_layer.weight - weight).abs().max() <= 1


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
def test_backend_without_merging_runs_forward_and_refuses_to_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    _resolve_to(ForwardOnlyQuantizationBackend("gptq"), monkeypatch)
    layer, x = _layer(Rounded()), torch.randn(4, IN)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ layer.get_delta_weight("default").T)
    with pytest.raises(TypeError, match="gptq"):
        layer.merge()
    assert not layer.merged


ATTENTION = nn.MultiheadAttention(4, 2)


# The last is a Linear by type, but attention reads its weight and never calls it: an adapter there would do nothing.
@pytest.mark.parametrize(
    "layer", [nn.Embedding(4, 4), nn.Conv2d(1, 1, 1), nn.LayerNorm(4), ATTENTION, ATTENTION.out_proj]
)
def test_other_layers_are_named_with_what_is_supported(layer: nn.Module) -> None:
    kind = type(layer).__name__
    with pytest.raises(TypeError, match=rf"layer 'block\.x' is of type .*{kind}.*supported: .*Conv1D"):
        quantization_of(layer, "block.x")


class Eighths(torch.Tensor):
    """A stand-in for the class of tensors that a quantiser brings."""


def _int8() -> nn.Linear:
    layer = nn.Linear(IN, OUT)
    layer.weight = nn.Parameter(torch.ones(OUT, IN, dtype=torch.int8), requires_grad=False)
    return layer


def _of_a_class() -> nn.Linear:
    layer = nn.Linear(IN, OUT)
    layer.weight = nn.Parameter(torch.ones(OUT, IN).as_subclass(Eighths), requires_grad=False)
    return layer


@pytest.mark.parametrize(
    ("base", "held"),
    [
        (_int8(), "torch.nn.parameter.Parameter of torch.int8"),
        (nn.Linear(IN, OUT).to(torch.float8_e4m3fn), "torch.nn.parameter.Parameter of torch.float8_e4m3fn"),
        (_of_a_class(), f"{__name__}.Eighths of torch.float32"),
    ],
    ids=["int8", "float8", "class"],
)
def test_a_quantised_weight_that_peft_does_not_know_is_refused_by_name(base: nn.Module, held: str) -> None:
    """It is a Linear by its type, and a merge would have added the update to the numbers as they are kept."""
    with pytest.raises(
        TypeError, match=f"^layer 'query' keeps its weight quantised, as {held}, which PEFT knows no way"
    ):
        _layer(base)


def test_a_quantised_weight_without_its_recipe_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(layer: nn.Module, **_: Any) -> None:
        raise ValueError("torchao quantized layer detected but 'get_apply_tensor_subclass' was not provided")

    monkeypatch.setattr("bilora.adapter.merging.resolve_quantization_backend", resolve)
    with pytest.raises(TypeError, match="^layer 'query' cannot be adapted: torchao .*quantise by from_pretrained"):
        _layer(nn.Linear(IN, OUT))
