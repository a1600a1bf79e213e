"""Both levels by name: disjoint, covering, and refused with a reason where they cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from bilora.adapter.config import BiloraConfig
from bilora.adapter.level_parameters import (
    LevelledLayer,
    PseudoSvdLayer,
    check_saved,
    level_parameters,
    levelled_layers,
    pseudo_svd_layers,
    trainable_parameters,
)
from bilora.errors import LevelsError, SettingsError


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "gpt2-classifier", "llama"])
def test_levels_are_disjoint_and_cover_every_trainable_parameter(tiny: Any, kind: str) -> None:
    model = tiny.adapted(kind)
    levels, trainable = level_parameters(model), trainable_parameters(model)
    named = dict(model.named_parameters())
    assert levels.lower.keys() | levels.upper.keys() == trainable.keys()
    assert not levels.lower.keys() & levels.upper.keys()
    assert all(named[name] is parameter for name, parameter in (levels.lower | levels.upper).items())
    values = {id(layer.bilora_E["default"]) for _, layer in pseudo_svd_layers(model)}
    assert {id(parameter) for parameter in levels.upper.values()} == values


def test_the_head_is_lower(tiny: Any) -> None:
    levels = level_parameters(tiny.adapted("roberta"))
    head = {name.rpartition("default.")[2] for name in levels.lower if "classifier.modules_to_save" in name}
    assert head == {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}


def test_only_the_active_adapters_are_asked(tiny: Any) -> None:
    model = tiny.adapted("gpt2")
    model.add_adapter("second", BiloraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM"))
    assert all(name.endswith(".default") for name in level_parameters(model).upper)
    model.set_adapter("second")
    assert {values.numel() for values in level_parameters(model).upper.values()} == {2}
    model.base_model.set_adapter(["default", "second"])
    levels = level_parameters(model)
    assert len(levels.upper) == 6 + 2
    assert levels.lower.keys() | levels.upper.keys() == trainable_parameters(model).keys()


def test_a_level_follows_what_is_frozen_by_hand(tiny: Any) -> None:
    model = tiny.adapted()
    name = next(iter(level_parameters(model).upper))
    model.get_parameter(name).requires_grad_(False)
    levels = level_parameters(model)
    assert name not in levels.upper and name not in levels.lower
    assert len(levels.upper) == 3


def test_an_adapter_loaded_for_use_only_has_empty_levels(tiny: Any, tmp_path: Path) -> None:
    tiny.adapted().save_pretrained(tmp_path)
    with pytest.raises(LevelsError, match=r"(?s)upper level is empty.*is_trainable=True.*lower level is empty"):
        level_parameters(tiny.loaded(tmp_path))
    assert len(level_parameters(tiny.loaded(tmp_path, is_trainable=True)).upper) == 4


def test_disabled_adapters_have_empty_levels(tiny: Any) -> None:
    model = tiny.adapted()
    with model.disable_adapter(), pytest.raises(LevelsError, match="disable_adapter"):
        level_parameters(model)


def test_plain_lora_has_no_upper_level(tiny: Any) -> None:
    model = get_peft_model(tiny.base(), LoraConfig(task_type="SEQ_CLS"))
    with pytest.raises(LevelsError, match=r"upper level is empty: no layer.*BiloraConfig"):
        level_parameters(model)


def test_trainable_but_inactive_adapter_is_refused(tiny: Any) -> None:
    model = tiny.adapted()
    model.add_adapter("second", BiloraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    model.base_model.set_requires_grad("second", True)
    with pytest.raises(LevelsError, match="'second'.*not active"):
        level_parameters(model)


class Foreign(nn.Module):
    """Another author's layer; what it claims is set from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
        self.lower, self.upper = {"a": self.a}, {"b": self.b}

    def held_adapters(self) -> list[str]:
        return ["only"]

    def active_held_adapters(self) -> list[str]:
        return ["only"]

    def lower_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        return self.lower

    def upper_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        return self.upper


def test_any_layer_that_answers_takes_part() -> None:
    model = nn.Sequential(Foreign(), nn.Linear(2, 2))
    assert isinstance(model[0], LevelledLayer) and not isinstance(model[0], PseudoSvdLayer)
    assert [name for name, _ in levelled_layers(model)] == ["0"]
    levels = level_parameters(model)
    assert set(levels.upper) == {"0.b"}
    assert set(levels.lower) == {"0.a", "1.weight", "1.bias"}
    assert set(level_parameters(Foreign()).upper) == {"b"}


@pytest.mark.parametrize(
    ("claim", "match"),
    [
        (lambda first, second: first.lower.update(b=first.b), r"both levels: 0\.b"),
        (lambda first, second: first.upper.update(c=first.b), r"'0\.c', which is not the name"),
        (lambda first, second: (setattr(second, "b", first.b), second.upper.update(b=first.b)), "'1.b' is the same"),
    ],
)
def test_claims_that_are_refused(claim: Callable[..., None], match: str) -> None:
    model = nn.Sequential(Foreign(), Foreign())
    claim(*model)
    with pytest.raises(LevelsError, match=match):
        level_parameters(model)


def test_check_saved_names_what_would_be_lost(tiny: Any) -> None:
    model = tiny.adapted()
    check_saved(model)
    model.get_base_model().bert.embeddings.requires_grad_(True)
    with pytest.raises(SettingsError, match=r"5 trainable parameters .*embeddings.*modules_to_save"):
        check_saved(model)


def test_gradients_reach_both_levels_of_every_layer(tiny: Any) -> None:
    model = tiny.trained()
    model(input_ids=tiny.tokens, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    levels = level_parameters(model)
    gradients = [parameter.grad for parameter in (levels.lower | levels.upper).values()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)
