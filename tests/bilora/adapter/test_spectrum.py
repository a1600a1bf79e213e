"""Magnitudes of the rank-one terms, and the table of them."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from bilora import Spectrum, magnitudes
from bilora.adapter.spectrum import adapted_layers
from bilora.errors import SettingsError

KINDS = [("bert", {}), ("gpt2", {}), ("bert", {"formulation": "real", "normalized": True})]


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_magnitudes_do_not_change_with_the_scale_symmetry(tiny: Any, kind: str, settings: Any) -> None:
    """(P_j, s_j) -> (3 P_j, s_j / 3) leaves the model as it is, and the magnitudes too."""
    model = tiny.trained(kind, **{"formulation": "real", **settings})
    before = magnitudes(model)
    with torch.no_grad():
        for layer in adapted_layers(model, "default").values():
            layer.bilora_P["default"].mul_(3.0)
            if not layer.bilora_settings["default"].normalized:
                layer.bilora_E["default"].div_(3.0)
    torch.testing.assert_close(magnitudes(model), before, rtol=1e-5, atol=0)


def test_table_and_json() -> None:
    sizes = {"encoder.query": torch.tensor([0.5, 2.0, 0.0]), "value": torch.tensor([1.0, 3.0])}
    spectrum = Spectrum.of(sizes, {"encoder.query": 1, "value": 2})
    assert spectrum.table().splitlines() == [
        "layer          rank  magnitudes",
        "encoder.query  1/3   2 | 0.5 0",
        "value          2/2   3 1",
    ]
    assert spectrum.to_json() == [
        {"layer": "encoder.query", "values": [2.0, 0.5, 0.0], "kept": 1},
        {"layer": "value", "values": [3.0, 1.0], "kept": 2},
    ]


def test_an_adapter_without_singular_values(tiny: Any) -> None:
    model = get_peft_model(tiny.base(), LoraConfig(target_modules=["query"]))
    with pytest.raises(SettingsError, match="no layer with a BiLoRA adapter 'default'"):
        magnitudes(model)
