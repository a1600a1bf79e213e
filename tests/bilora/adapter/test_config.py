"""Settings: what is refused and how, what a start works out to, and what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig

from bilora.adapter.config import BiloraConfig
from bilora.errors import SettingsError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r is 0"),
        ({"r": 2.5}, "r is 2.5"),
        ({"r": True}, "r is True"),
        ({"rank_pattern": {"query": -1}}, r"rank_pattern\['query'\] is -1"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha_pattern": {"query": "x"}}, r"alpha_pattern\['query'\] is 'x'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": "0.1"}, "dropout is '0.1'"),
        ({"start_value": "1"}, "start_value is '1'"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"task_type": "CLASSIFY"}, "CLASSIFY"),
        ({"formulation": "sofmax"}, "Did you mean 'softmax'"),
        ({"init_weights": 3}, "init_weights is 3"),
        ({"formulation": "softmax", "r": 1}, r"gradient of zero.*\(r = 1\)"),
        ({"formulation": "softmax", "rank_pattern": {"query": 1}}, r"rank_pattern\['query'\] = 1"),
        ({"r": 1, "formulation": "softmax_sum_one"}, "gradient of zero"),
        ({"formulation": "softmax", "normalized": True}, "normalized=True.*small s"),
        ({"formulation": "softmax", "normalized": True, "start_value": 1.0}, "normalized=True.*small s"),
        ({"normalized": True, "formulation": "binary"}, "small start_value"),
        ({"init_weights": "pissa"}, "init_weights is 'pissa'; known: True, False, 'lora', 'adalora'"),
        ({"init_weights": "lora", "normalized": True}, "starts at P = 0, which has no direction"),
        ({"init_weights": "lora", "start_value": 0.0}, "start_value is 0 and so is P"),
        ({"formulation": "softmax", "init_weights": "adalora"}, "formulation 'real'"),
        ({"init_weights": "adalora", "formulation": "binary"}, "formulation 'real'"),
        ({"init_weights": "adalora", "formulation": "real", "normalized": True}, "adalora.*leave those two out"),
        ({"init_weights": "adalora", "formulation": "real", "start_value": 1.0}, "adalora.*leave those two out"),
        ({"formulation": "real", "normalized": False, "start_value": 0.0}, "start_value is 0 and so is P"),
        ({"formulation": "softmax", "start_value": 0.5}, "cannot start with all 8 values at 0.5"),
        ({"target_modules": "all-linear", "layers_to_transform": [0]}, "list of names"),
        ({"layers_pattern": "layer"}, "without layers_to_transform"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BiloraConfig(**settings)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(SettingsError) as caught:
        BiloraConfig(r=0, dropout=2, bias="some", task_type="x", alpha=-1)
    text = str(caught.value)
    assert all(word in text for word in ("r is 0", "dropout is 2", "bias is 'some'", "'x'", "alpha is -1"))


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, 0.0),
        ({"formulation": "real", "normalized": False}, None),
        ({"formulation": "real", "r": 1, "normalized": False}, None),
        ({"formulation": "binary", "r": 1}, None),
        ({"formulation": "real", "normalized": False, "start_value": 2.0}, 2.0),
        ({"formulation": "real", "normalized": True}, 0.0),
        ({"formulation": "real", "normalized": True, "start_value": 0.01}, 0.01),
        ({"formulation": "binary", "normalized": True, "start_value": 0.01}, 0.01),
        ({"formulation": "real", "init_weights": "adalora"}, 0.0),
        ({"formulation": "real", "init_weights": "lora"}, None),
        ({"formulation": "real", "normalized": False, "init_weights": False}, None),
        ({"formulation": "real", "init_weights": False, "normalized": True}, None),
    ],
)
def test_first_value(settings: dict[str, Any], first: float | None) -> None:
    assert BiloraConfig(**settings).first_value == first


def test_lists_of_names_become_sets() -> None:
    config = BiloraConfig(target_modules=["b", "a", "a"], exclude_modules=["c"])
    assert config.target_modules == {"a", "b"}
    assert config.exclude_modules == {"c"}


def test_comes_back_from_its_file(tmp_path: Path) -> None:
    start = {"formulation": "binary", "normalized": True, "start_value": 0.02}
    layers = {"rank_pattern": {"query": 2}, "target_modules": ["value", "query"]}
    config = BiloraConfig(r=4, task_type="SEQ_CLS", **start, **layers)
    config.save_pretrained(str(tmp_path))
    loaded = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(loaded, BiloraConfig)
    assert loaded == config


def test_equal_settings_are_equal_files(tmp_path: Path) -> None:
    names = [f"layer{number}" for number in range(20)]
    for folder, order in (("one", names), ("two", names[::-1])):
        BiloraConfig(target_modules=order).save_pretrained(str(tmp_path / folder))
    one, two = ((tmp_path / folder / "adapter_config.json").read_text() for folder in ("one", "two"))
    assert one == two
    assert json.loads(one)["target_modules"] == sorted(names)
