"""BiLoRA as a method of PEFT, on tiny real architectures: what a LoRA user expects, low precision and torch.compile."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel, get_peft_model
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


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_base(
    autocast: bool, make_model: Make, train: Train, logits: Logits, tokens: Tensor, tmp_path: Path
) -> None:
    config = BiloraConfig(r=4, task_type="SEQ_CLS")
    base = make_model("bert").to(torch.bfloat16)
    model = get_peft_model(base, config, autocast_adapter_dtype=autocast).eval()
    for layer in _adapted(model).values():
        assert layer.bilora_E["default"].dtype == (torch.float32 if autocast else torch.bfloat16)
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
    next(iter(_adapted(model).values())).register_forward_hook(lambda *_: calls.append(1))
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
