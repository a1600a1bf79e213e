"""Adapters on models whose new parts PEFT does not know; test_architectures.py has every architecture."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, DebertaV2Config, DistilBertConfig

from bilora.errors import SettingsError
from bilora.models.pretrained import Loaded, Tokenizer, load_model
from bilora.problems.catalog import find_variant
from bilora.runs import adapted_model as module
from bilora.runs.adapted_model import linear_layers, put_adapter
from bilora.tasks.catalog import Task

TASK = Task("toy", ("text",), ("a", "b"))


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Any], Loaded]:
    """A tiny model that was saved without a head."""

    def save_and_load(config: Any) -> Loaded:
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path)
        return load_model(Tokenizer(str(tmp_path), SimpleNamespace(pad_token_id=0)), TASK)

    return save_and_load


def deberta() -> DebertaV2Config:
    return DebertaV2Config(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )


def test_what_is_new_is_known(load: Callable[[Any], Loaded]) -> None:
    assert load(deberta()).new_modules == ("classifier", "pooler.dense")


@pytest.mark.parametrize("method", ["bilora", "lora", "adalora", "pseudo_svd"])
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_every_method_trains_what_is_new_whole(load: Callable[[Any], Loaded], method: str, targets: str | None) -> None:
    loaded = load(deberta())
    settings = find_variant(method).settings(target_modules=targets)
    model = put_adapter(loaded, method, settings, task_type="SEQ_CLS", steps=20)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    for part in ("pooler.modules_to_save.default.dense.weight", "classifier.modules_to_save.default.weight"):
        alternative = part.replace("pooler.modules_to_save.default.dense", "pooler.dense.modules_to_save.default")
        assert {f"base_model.model.{part}", f"base_model.model.{alternative}"} & trained
    assert not any("original_module" in name for name in trained)
    saved = model.peft_config["default"].modules_to_save
    assert len(saved) == len(set(saved)), "each is named once"


def test_heads_that_only_end_like_one(load: Callable[[Any], Loaded]) -> None:
    loaded = load(DistilBertConfig(vocab_size=20, dim=8, n_layers=1, n_heads=2, hidden_dim=8))
    settings = find_variant("lora").settings(target_modules="all-linear")
    model = put_adapter(loaded, "lora", settings, task_type="SEQ_CLS", steps=2)
    adapted = {name for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted
    assert not any("classifier" in name for name in adapted)


def test_a_method_that_would_leave_something_untrained_is_refused(
    load: Callable[[Any], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(model: Any, settings: Any, *, task_type: str, steps: int) -> Any:
        return get_peft_model(model, LoraConfig(task_type=task_type))

    lora = find_variant("lora")
    monkeypatch.setattr(module, "find_variant", lambda _: dataclasses.replace(lora, adapt=forgetful))
    with pytest.raises(SettingsError, match=r"method 'own' would leave pooler\.dense of the model as drawn at random"):
        put_adapter(load(deberta()), "own", lora.settings(), task_type="SEQ_CLS", steps=2)


def test_layers_are_listed_as_they_were_before_the_failure(load: Callable[[Any], Loaded]) -> None:
    loaded = load(deberta())
    layers = linear_layers(loaded.model)
    settings = find_variant("lora").settings(target_modules=["q_proj"])
    with pytest.raises(SettingsError, match=f"linear layers of the model: {', '.join(layers)}; name some"):
        put_adapter(loaded, "lora", settings, task_type="SEQ_CLS", steps=2)
    assert "query_proj" in layers
