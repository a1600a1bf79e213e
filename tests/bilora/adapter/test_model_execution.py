"""BiLoRA under low precision, activation checkpointing and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilora.adapter.config import BiloraConfig
from bilora.adapter.layer import BiloraLinear

Make = Callable[[str], PreTrainedModel]
Train = Callable[[nn.Module], None]
Logits = Callable[[nn.Module, Tensor], Tensor]
Adapt = Callable[..., PeftModel]


def _adapted(model: nn.Module) -> list[BiloraLinear]:
    return [each for each in model.modules() if isinstance(each, BiloraLinear)]


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_base(
    autocast: bool, make_model: Make, train: Train, logits: Logits, tokens: Tensor, tmp_path: Path
) -> None:
    config = BiloraConfig(r=4, task_type="SEQ_CLS")
    base = make_model("bert").to(torch.bfloat16)
    model = get_peft_model(base, config, autocast_adapter_dtype=autocast).eval()
    for layer in _adapted(model):
        assert layer.bilora_E["default"].dtype == torch.float32
        assert layer.bilora_P["default"].dtype == (torch.float32 if autocast else torch.bfloat16)
    train(model)
    trained = logits(model, tokens)
    assert trained.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        make_model("bert").to(torch.bfloat16), tmp_path, autocast_adapter_dtype=autocast, is_trainable=True
    ).eval()
    assert torch.equal(logits(loaded, tokens), trained)
    merged = logits(model.merge_and_unload(), tokens)
    torch.testing.assert_close(merged, trained, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("sparing", [True, False])
def test_an_adapter_loaded_for_use_is_frozen_on_a_bfloat16_base_too(
    sparing: bool, adapt: Adapt, make_model: Make, tmp_path: Path
) -> None:
    adapt().save_pretrained(tmp_path)
    base = make_model("bert").to(torch.bfloat16)
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=sparing)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_parameters_stay_the_same_objects(adapt: Adapt) -> None:
    model = adapt()
    before = dict(model.named_parameters())
    model.merge_adapter()
    model.unmerge_adapter()
    with model.disable_adapter():
        pass
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def _gradients(model: PeftModel, tokens: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(input_ids=tokens, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_checkpointed_gradients_are_the_same(adapt: Adapt, train: Train, tokens: Tensor) -> None:
    model = adapt()
    train(model)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = _gradients(model, tokens)
    calls = []
    next(iter(_adapted(model))).register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = _gradients(model, tokens)
    assert len(calls) == 2
    assert all(torch.equal(checkpointed[name], each) for name, each in plain.items())


def test_whole_model_compiles_without_graph_breaks(adapt: Adapt, train: Train, tokens: Tensor) -> None:
    model = adapt()
    train(model)
    torch._dynamo.reset()
    compiled = torch.compile(model.base_model.model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(input_ids=tokens).logits, model(input_ids=tokens).logits)
