"""BiLoRA as a method of PEFT, on tiny real architectures: what a LoRA user expects, low precision and torch.compile."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bilora.adapter.config import BiloraConfig
from bilora.adapter.layer import BiloraLinear
from bilora.adapter.level_parameters import level_parameters
from bilora.adapter.singular_values import FORMULATIONS
from bilora.errors import SettingsError

FILE = "adapter_model.safetensors"
KINDS = ["bert", "roberta", "gpt2", "gpt2-classifier", "llama"]


def _adapted(model: nn.Module) -> dict[str, BiloraLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, BiloraLinear)}


def _short(model: PeftModel) -> set[str]:
    return {name.rpartition(".")[2] for name in _adapted(model)}


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_identity_disable_merge_save_and_load(tiny: Any, kind: str, formulation: str, tmp_path: Path) -> None:
    base = tiny.logits(tiny.base(kind))
    model = tiny.adapted(kind, formulation=formulation)
    assert torch.equal(tiny.logits(model), base)

    tiny.train(model)
    trained = tiny.logits(model)
    assert (trained - base).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    for sparing in (False, True):
        assert torch.equal(tiny.logits(tiny.loaded(tmp_path, kind, low_cpu_mem_usage=sparing)), trained)

    with model.disable_adapter():
        torch.testing.assert_close(tiny.logits(model), base)
    model.merge_adapter()
    torch.testing.assert_close(tiny.logits(model), trained, rtol=1e-5, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(tiny.logits(model), trained, rtol=1e-5, atol=1e-5)
    merged = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(tiny.logits(merged), trained, rtol=1e-5, atol=1e-5)
    assert not _adapted(merged) and not any("bilora" in name for name in merged.state_dict())


def test_a_saved_adapter_holds_its_parameters_and_the_head_only(tiny: Any, tmp_path: Path) -> None:
    tiny.adapted("roberta").save_pretrained(tmp_path)
    ends = {key.split(".")[-1] if "bilora" in key else "head" for key in load_file(tmp_path / FILE)}
    assert ends == {"bilora_P", "bilora_Q", "bilora_E", "head"}


def test_auto_model_loads_base_adapter_and_head(tiny: Any, tmp_path: Path) -> None:
    tiny.base().save_pretrained(tmp_path / "base")
    base = type(tiny.base()).from_pretrained(tmp_path / "base", attn_implementation="eager")
    model = tiny.trained(base=base)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(tiny.logits(loaded), tiny.logits(model))


def test_several_adapters_of_unlike_settings(tiny: Any, tmp_path: Path) -> None:
    model = tiny.trained(formulation="softmax")
    first = tiny.logits(model)
    values = {"formulation": "real", "normalized": True, "task_type": "SEQ_CLS"}
    other = BiloraConfig(r=2, target_modules=["dense"], rank_pattern={"pooler.dense": 3}, **values)
    model.add_adapter("other", other)
    assert torch.equal(tiny.logits(model), first)
    model.set_adapter("other")
    tiny.train(model)
    second = tiny.logits(model)
    assert (second - first).abs().max() > 1e-2

    model.save_pretrained(tmp_path)
    loaded = tiny.loaded(tmp_path)
    loaded.load_adapter(tmp_path / "other", "other")
    assert torch.equal(tiny.logits(loaded), first)
    loaded.set_adapter("other")
    assert torch.equal(tiny.logits(loaded), second)
    loaded.delete_adapter("default")
    assert torch.equal(tiny.logits(loaded), second)
    assert all(layer.held_adapters() in (["other"], []) for layer in _adapted(loaded).values())


def test_patterns_set_rank_and_scale_of_single_layers(tiny: Any) -> None:
    model = tiny.adapted(rank_pattern={"layer.1.attention.self.query": 2}, alpha_pattern={"value": 6.0})
    for name, layer in _adapted(model).items():
        rank = 2 if name.endswith("layer.1.attention.self.query") else 4
        alpha = 6.0 if name.endswith("value") else 16.0
        assert layer.bilora_E["default"].shape == (rank,)
        assert layer.bilora_settings["default"].scale == alpha / rank


def test_all_linear_leaves_the_head_out_also_for_a_second_adapter(tiny: Any) -> None:
    model = tiny.adapted(target_modules="all-linear")
    names = {name.removeprefix("base_model.model.") for name in _adapted(model)}
    assert "bert.pooler.dense" in names
    assert len(names) == 2 * 6 + 1
    model.add_adapter("second", BiloraConfig(target_modules="all-linear", task_type="SEQ_CLS"))
    assert all(layer.held_adapters() == ["default", "second"] for layer in _adapted(model).values())


def test_query_and_value_by_default_without_excluded_modules_or_other_blocks(tiny: Any) -> None:
    assert _short(tiny.adapted("bert", target_modules=None)) == {"query", "value"}
    assert _short(tiny.adapted("gpt2", target_modules=None)) == {"c_attn"}
    assert _short(tiny.adapted(exclude_modules=["query"])) == {"value"}
    names = _adapted(tiny.adapted(layers_to_transform=[1]))
    assert names and all(".layer.1." in name for name in names)


def test_modules_to_save_are_trained_and_saved(tiny: Any, tmp_path: Path) -> None:
    model = tiny.trained(modules_to_save=["LayerNorm"])
    model.save_pretrained(tmp_path)
    assert any("LayerNorm" in key for key in load_file(tmp_path / FILE))
    assert torch.equal(tiny.logits(tiny.loaded(tmp_path)), tiny.logits(model))


def test_unsupported_layer_is_named(tiny: Any) -> None:
    with pytest.raises(TypeError, match=r"bert\.embeddings\.word_embeddings.*Embedding"):
        tiny.adapted(target_modules=["query", "word_embeddings"])


def test_file_that_fits_only_in_part_is_refused(tiny: Any, tmp_path: Path) -> None:
    tiny.adapted().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / FILE)
    gone = next(key for key in tensors if "layer.0" in key and key.endswith("bilora_E"))
    save_file({key: tensor for key, tensor in tensors.items() if key != gone}, tmp_path / FILE)
    with pytest.raises(SettingsError, match=rf"missing in the file: .*{gone}"):
        tiny.loaded(tmp_path)
    more = {**tensors, gone.replace("layer.0", "layer.9"): tensors[gone].clone()}
    save_file(more, tmp_path / FILE)
    with pytest.raises(SettingsError, match=r"not in the model: .*layer\.9"):
        tiny.loaded(tmp_path)


def test_trained_parameter_outside_the_adapter_is_not_lost_on_saving(tiny: Any, tmp_path: Path) -> None:
    model = tiny.adapted()
    model.get_base_model().bert.pooler.dense.bias.requires_grad_(True)
    with pytest.raises(SettingsError, match=r"bert\.pooler\.dense\.bias.*modules_to_save"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_base(tiny: Any, autocast: bool, tmp_path: Path) -> None:
    config = BiloraConfig(r=4, task_type="SEQ_CLS")
    base = tiny.base().to(torch.bfloat16)
    model = get_peft_model(base, config, autocast_adapter_dtype=autocast).eval()
    for layer in _adapted(model).values():
        assert layer.bilora_E["default"].dtype == (torch.float32 if autocast else torch.bfloat16)
        assert layer.bilora_P["default"].dtype == (torch.float32 if autocast else torch.bfloat16)
    tiny.train(model)
    trained = tiny.logits(model)
    assert trained.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        tiny.base().to(torch.bfloat16), tmp_path, autocast_adapter_dtype=autocast, is_trainable=True
    ).eval()
    assert torch.equal(tiny.logits(loaded), trained)
    merged = tiny.logits(model.merge_and_unload())
    torch.testing.assert_close(merged, trained, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("sparing", [True, False])
def test_an_adapter_loaded_for_use_is_frozen_on_a_bfloat16_base_too(tiny: Any, sparing: bool, tmp_path: Path) -> None:
    tiny.adapted().save_pretrained(tmp_path)
    base = tiny.base().to(torch.bfloat16)
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=sparing)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_parameters_stay_the_same_objects(tiny: Any) -> None:
    model = tiny.adapted()
    before = dict(model.named_parameters())
    model.merge_adapter()
    model.unmerge_adapter()
    with model.disable_adapter():
        pass
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def _gradients(model: PeftModel, tokens: Tensor) -> list[Tensor]:
    loss = model(input_ids=tokens, labels=torch.tensor([0, 1, 2, 0])).loss
    return list(torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad]))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_checkpointed_gradients_are_the_same(tiny: Any) -> None:
    model = tiny.trained()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = _gradients(model, tiny.tokens)
    calls = []
    next(iter(_adapted(model).values())).register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = _gradients(model, tiny.tokens)
    assert len(calls) == 2
    assert all(torch.equal(one, other) for one, other in zip(checkpointed, plain, strict=True))


def test_whole_model_compiles_without_graph_breaks(tiny: Any) -> None:
    model = tiny.trained()
    torch._dynamo.reset()
    compiled = torch.compile(model.base_model.model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(input_ids=tiny.tokens).logits, model(input_ids=tiny.tokens).logits)


@pytest.mark.parametrize(
    ("bias", "kept"), [("all", {"query", "key", "dense", "LayerNorm"}), ("bilora_only", {"query"})]
)
def test_biases_are_trained_below_saved_and_loaded(tiny: Any, tmp_path: Path, bias: str, kept: set[str]) -> None:
    model = tiny.trained("bert", bias=bias)
    trained = tiny.logits(model)
    lower = level_parameters(model).lower
    owners = {name.split(".")[-2] for name in lower if name.endswith(".bias")} - {"base_layer", "default"}
    assert owners >= kept - {"query"}
    assert any(name.endswith("query.base_layer.bias") for name in lower)
    model.save_pretrained(tmp_path)
    assert torch.equal(tiny.logits(tiny.loaded(tmp_path, "bert")), trained)


def test_each_row_gets_its_own_adapter(tiny: Any) -> None:
    model = tiny.trained("gpt2")
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")
    tiny.train(model)
    own = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        own[name] = tiny.logits(model.eval())
    with model.disable_adapter():
        own["__base__"] = tiny.logits(model)
    names = ["other", "__base__", "default", "other"]
    with torch.no_grad():
        mixed = model(input_ids=tiny.tokens, adapter_names=names).logits
    expected = torch.stack([own[name][row] for row, name in enumerate(names)])
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)
    # The hooks are gone.
    assert torch.equal(tiny.logits(model), own["other"])
    with pytest.raises(ValueError, match="has stranger, of which the model has no adapter"):
        model(input_ids=tiny.tokens, adapter_names=["stranger"] * 4)
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        model.train()(input_ids=tiny.tokens, adapter_names=names)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_target_that_is_tied_is_untied_before_it_is_merged(tiny: Any, tmp_path: Path) -> None:
    model = tiny.trained("llama", target_modules=["q_proj", "lm_head"])
    trained = tiny.logits(model)
    assert model.get_base_model().lm_head.get_base_layer().weight is model.get_input_embeddings().weight
    merged = model.merge_and_unload()
    torch.testing.assert_close(tiny.logits(merged), trained, rtol=1e-5, atol=1e-5)
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert not again.config.tie_word_embeddings
    torch.testing.assert_close(tiny.logits(again), trained, rtol=1e-5, atol=1e-5)
