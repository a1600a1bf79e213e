"""Which layers can be adapted."""

from __future__ import annotations

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from bilora.adapter.merging import quantization_of

UNSUPPORTED = {
    "Embedding": nn.Embedding(4, 4),
    "Conv2d": nn.Conv2d(1, 1, 1),
    "LayerNorm": nn.LayerNorm(4),
    "MultiheadAttention": nn.MultiheadAttention(4, 2),
    # A Linear by type, but attention reads its weight and never calls it: an adapter there would do nothing.
    "NonDynamicallyQuantizableLinear": nn.MultiheadAttention(4, 2).out_proj,
}


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), Conv1D(4, 4)], ids=["linear", "conv1d"])
def test_plain_layers_have_no_backend(layer: nn.Module) -> None:
    assert quantization_of(layer, "query") is None


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_layers_are_named_with_what_is_supported(kind: str) -> None:
    with pytest.raises(TypeError, match=rf"layer 'block\.x' is of type .*{kind}.*supported: .*Conv1D"):
        quantization_of(UNSUPPORTED[kind], "block.x")
