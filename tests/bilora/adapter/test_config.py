"""Settings: what is refused and how, what a start works out to, and what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig

from bilora.adapter.config import BiloraConfig
from bilora.errors import SettingsError

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rank zero": ({"r": 0}, "r is 0"),
    "rank no number": ({"r": 2.5}, "r is 2.5"),
    "rank a truth value": ({"r": True}, "r is True"),
    "rank in the pattern": ({"rank_pattern": {"query": -1}}, r"rank_pattern\['query'\] is -1"),
    "alpha": ({"alpha": 0}, "alpha is 0"),
    "alpha not finite": ({"alpha": float("nan")}, "alpha is nan"),
    "alpha in the pattern": ({"alpha_pattern": {"query": "x"}}, r"alpha_pattern\['query'\] is 'x'"),
    "dropout": ({"dropout": 1.0}, "dropout is 1.0"),
    "dropout no number": ({"dropout": "0.1"}, "dropout is '0.1'"),
    "start no number": ({"start_value": "1"}, "start_value is '1'"),
    "bias": ({"bias": "some"}, "bias is 'some'"),
    "task": ({"task_type": "CLASSIFY"}, "CLASSIFY"),
    "unknown formulation": ({"formulation": "sofmax"}, "Did you mean 'softmax'"),
    "init_weights": ({"init_weights": "lora"}, "init_weights is 'lora'"),
    "init_weights by number": ({"init_weights": 3}, "init_weights is 3"),
    "softmax of one value": ({"formulation": "softmax", "r": 1}, r"gradient of zero.*\(r = 1\)"),
    "softmax of one value by pattern": (
        {"formulation": "softmax", "rank_pattern": {"query": 1}},
        r"rank_pattern\['query'\] = 1",
    ),
    "paper's softmax of one value": ({"r": 1, "formulation": "softmax_sum_one"}, "gradient of zero"),
    "normalized softmax": ({"formulation": "softmax", "normalized": True}, "normalized=True.*small s"),
    "normalized softmax at its mean": (
        {"formulation": "softmax", "normalized": True, "start_value": 1.0},
        "normalized=True.*small s",
    ),
    "normalized binary at zero": ({"normalized": True, "formulation": "binary"}, "small start_value"),
    "adalora softmax": ({"formulation": "softmax", "init_weights": "adalora"}, "formulation 'real'"),
    "adalora binary": ({"init_weights": "adalora", "formulation": "binary"}, "formulation 'real'"),
    "adalora normalized": (
        {"init_weights": "adalora", "formulation": "real", "normalized": True},
        "adalora.*leave those two out",
    ),
    "adalora at one": (
        {"init_weights": "adalora", "formulation": "real", "start_value": 1.0},
        "adalora.*leave those two out",
    ),
    "nothing ever moves": (
        {"formulation": "real", "normalized": False, "start_value": 0.0},
        "start_value is 0 and so is P",
    ),
    "start out of reach": ({"formulation": "softmax", "start_value": 0.5}, "cannot start with all 8 values at 0.5"),
    "blocks of one string": ({"target_modules": "all-linear", "layers_to_transform": [0]}, "list of names"),
    "pattern without blocks": ({"layers_pattern": "layer"}, "without layers_to_transform"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    settings, message = REFUSED[case]
    with pytest.raises(SettingsError, match=message):
        BiloraConfig(**settings)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(SettingsError) as caught:
        BiloraConfig(r=0, dropout=2, bias="some", task_type="x", alpha=-1)
    text = str(caught.value)
    assert all(word in text for word in ("r is 0", "dropout is 2", "bias is 'some'", "'x'", "alpha is -1"))


ACCEPTED: dict[str, tuple[dict[str, Any], float | None]] = {
    "default": ({}, 0.0),
    "real": ({"formulation": "real", "normalized": False}, None),
    "real of one value": ({"formulation": "real", "r": 1, "normalized": False}, None),
    "binary of one value": ({"formulation": "binary", "r": 1}, None),
    "real at two": ({"formulation": "real", "normalized": False, "start_value": 2.0}, 2.0),
    "normalized real": ({"formulation": "real", "normalized": True}, 0.0),
    "normalized real, small": ({"formulation": "real", "normalized": True, "start_value": 0.01}, 0.01),
    "normalized binary, small": ({"formulation": "binary", "normalized": True, "start_value": 0.01}, 0.01),
    "adalora": ({"formulation": "real", "init_weights": "adalora"}, 0.0),
    "random": ({"formulation": "real", "normalized": False, "init_weights": False}, None),
    "random normalized": ({"formulation": "real", "init_weights": False, "normalized": True}, None),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_first_value(case: str) -> None:
    settings, first = ACCEPTED[case]
    assert BiloraConfig(**settings).first_value == first


def test_lists_of_names_become_sets() -> None:
    config = BiloraConfig(target_modules=["b", "a", "a"], exclude_modules=["c"])
    assert config.target_modules == {"a", "b"}
    assert config.exclude_modules == {"c"}


def test_comes_back_from_its_file(tmp_path: Path) -> None:
    config = BiloraConfig(
        r=4,
        formulation="binary",
        normalized=True,
        start_value=0.02,
        rank_pattern={"query": 2},
        target_modules=["value", "query"],
        task_type="SEQ_CLS",
    )
    config.save_pretrained(str(tmp_path))
    found = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(found, BiloraConfig)
    assert found == config


def test_equal_settings_are_equal_files(tmp_path: Path) -> None:
    names = [f"layer{number}" for number in range(20)]
    for folder, order in (("one", names), ("two", names[::-1])):
        BiloraConfig(target_modules=order).save_pretrained(str(tmp_path / folder))
    one, two = ((tmp_path / folder / "adapter_config.json").read_text() for folder in ("one", "two"))
    assert one == two
    assert json.loads(one)["target_modules"] == sorted(names)
