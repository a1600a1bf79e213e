"""BiLoRA as a method of PEFT, on tiny real architectures: everything a LoRA user expects to work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilora.adapter.config import BiloraConfig
from bilora.adapter.layer import BiloraLinear
from bilora.adapter.singular_values import FORMULATIONS
from bilora.errors import SettingsError

FILE = "adapter_model.safetensors"
KINDS = ["bert", "roberta", "gpt2", "gpt2-classifier", "llama"]
Make = Callable[[str], PreTrainedModel]
Train = Callable[[nn.Module], None]
Logits = Callable[[nn.Module, Tensor], Tensor]
Adapt = Callable[..., PeftModel]


def _adapted(model: nn.Module) -> dict[str, BiloraLinear]:
    return {name: each for name, each in model.named_modules() if isinstance(each, BiloraLinear)}


def _short(model: PeftModel) -> set[str]:
    return {name.rpartition(".")[2] for name in _adapted(model)}


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_identity_disable_merge_save_and_load(
    kind: str,
    formulation: str,
    adapt: Adapt,
    make_model: Make,
    train: Train,
    logits: Logits,
    tokens: Tensor,
    tmp_path: Path,
) -> None:
    base = logits(make_model(kind), tokens)
    model = adapt(kind, formulation=formulation)
    assert torch.equal(logits(model, tokens), base)

    train(model)
    trained = logits(model, tokens)
    assert (trained - base).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model(kind), tmp_path)
    assert torch.equal(logits(loaded, tokens), trained)
    sparing = PeftModel.from_pretrained(make_model(kind), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(sparing, tokens), trained)

    with model.disable_adapter():
        torch.testing.assert_close(logits(model, tokens), base)
    model.merge_adapter()
    torch.testing.assert_close(logits(model, tokens), trained, rtol=1e-5, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model, tokens), trained, rtol=1e-5, atol=1e-5)
    merged = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(merged, tokens), trained, rtol=1e-5, atol=1e-5)
    assert not _adapted(merged)
    assert not any("bilora" in name for name in merged.state_dict())


def test_a_saved_adapter_holds_its_parameters_and_the_head_only(adapt: Adapt, tmp_path: Path) -> None:
    adapt("roberta").save_pretrained(tmp_path)
    ends = {key.split(".")[-1] if "bilora" in key else "head" for key in load_file(tmp_path / FILE)}
    assert ends == {"bilora_P", "bilora_Q", "bilora_E", "head"}


def test_auto_model_loads_base_adapter_and_head(
    adapt: Adapt, make_model: Make, train: Train, logits: Logits, tokens: Tensor, tmp_path: Path
) -> None:
    make_model("bert").save_pretrained(tmp_path / "base")
    base = type(make_model("bert")).from_pretrained(tmp_path / "base", attn_implementation="eager")
    model = adapt(base=base)
    train(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded, tokens), logits(model, tokens))


def test_several_adapters_of_unlike_settings(
    adapt: Adapt, make_model: Make, train: Train, logits: Logits, tokens: Tensor, tmp_path: Path
) -> None:
    model = adapt(formulation="softmax")
    train(model)
    first = logits(model, tokens)
    other = BiloraConfig(
        r=2,
        formulation="real",
        normalized=True,
        target_modules=["dense"],
        task_type="SEQ_CLS",
        rank_pattern={"pooler.dense": 3},
    )
    model.add_adapter("other", other)
    assert torch.equal(logits(model, tokens), first)
    model.set_adapter("other")
    train(model)
    second = logits(model, tokens)
    assert (second - first).abs().max() > 1e-2

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model("bert"), tmp_path)
    loaded.load_adapter(tmp_path / "other", "other")
    assert torch.equal(logits(loaded, tokens), first)
    loaded.set_adapter("other")
    assert torch.equal(logits(loaded, tokens), second)
    loaded.delete_adapter("default")
    assert torch.equal(logits(loaded, tokens), second)
    assert all(layer.held_adapters() in (["other"], []) for layer in _adapted(loaded).values())


def test_patterns_set_rank_and_scale_of_single_layers(adapt: Adapt) -> None:
    model = adapt(rank_pattern={"layer.1.attention.self.query": 2}, alpha_pattern={"value": 6.0})
    for name, layer in _adapted(model).items():
        rank = 2 if name.endswith("layer.1.attention.self.query") else 4
        alpha = 6.0 if name.endswith("value") else 16.0
        assert layer.bilora_E["default"].shape == (rank,)
        assert layer.bilora_settings["default"].scale == alpha / rank


def test_targets_by_default_are_query_and_value(adapt: Adapt) -> None:
    assert _short(adapt("bert", target_modules=None)) == {"query", "value"}
    assert _short(adapt("gpt2", target_modules=None)) == {"c_attn"}


def test_all_linear_leaves_the_head_out_also_for_a_second_adapter(adapt: Adapt, logits: Logits, tokens: Tensor) -> None:
    model = adapt(target_modules="all-linear")
    names = {name.removeprefix("base_model.model.") for name in _adapted(model)}
    assert "bert.pooler.dense" in names
    assert len(names) == 2 * 6 + 1
    model.add_adapter("second", BiloraConfig(target_modules="all-linear", task_type="SEQ_CLS"))
    assert all(layer.held_adapters() == ["default", "second"] for layer in _adapted(model).values())


def test_excluded_modules_and_single_blocks(adapt: Adapt) -> None:
    assert _short(adapt(exclude_modules=["query"])) == {"value"}
    names = _adapted(adapt(layers_to_transform=[1]))
    assert names and all(".layer.1." in name for name in names)


def test_modules_to_save_are_trained_and_saved(
    adapt: Adapt, make_model: Make, train: Train, logits: Logits, tokens: Tensor, tmp_path: Path
) -> None:
    model = adapt(modules_to_save=["LayerNorm"])
    train(model)
    model.save_pretrained(tmp_path)
    assert any("LayerNorm" in key for key in load_file(tmp_path / FILE))
    loaded = PeftModel.from_pretrained(make_model("bert"), tmp_path)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))


def test_unsupported_layer_is_named(adapt: Adapt) -> None:
    with pytest.raises(TypeError, match=r"bert\.embeddings\.word_embeddings.*Embedding"):
        adapt(target_modules=["query", "word_embeddings"])


def test_file_that_fits_only_in_part_is_refused(adapt: Adapt, make_model: Make, tmp_path: Path) -> None:
    adapt().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / FILE)
    gone = next(key for key in tensors if "layer.0" in key and key.endswith("bilora_E"))
    save_file({key: each for key, each in tensors.items() if key != gone}, tmp_path / FILE)
    with pytest.raises(SettingsError, match=rf"missing in the file: .*{gone}"):
        PeftModel.from_pretrained(make_model("bert"), tmp_path)
    more = {**tensors, gone.replace("layer.0", "layer.9"): tensors[gone].clone()}
    save_file(more, tmp_path / FILE)
    with pytest.raises(SettingsError, match=r"not in the model: .*layer\.9"):
        PeftModel.from_pretrained(make_model("bert"), tmp_path)


def test_trained_parameter_outside_the_adapter_is_not_lost_on_saving(adapt: Adapt, tmp_path: Path) -> None:
    model = adapt()
    model.get_base_model().bert.pooler.dense.bias.requires_grad_(True)
    with pytest.raises(SettingsError, match=r"bert\.pooler\.dense\.bias.*modules_to_save"):
        model.save_pretrained(tmp_path)
