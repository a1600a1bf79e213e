"""Every architecture that users bring, tiny and random, and what in them is new to PEFT."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    Qwen2Config,
    RobertaConfig,
    T5Config,
)

from bilora import export_lora, level_parameters, trainable_parameters
from bilora.artifacts.adapter_files import load_adapter, save_adapter
from bilora.engines import FitSettings, LevelSettings, fit
from bilora.errors import SettingsError
from bilora.models.pretrained import Loaded, Tokenizer, load_model
from bilora.problems.catalog import find_variant
from bilora.problems.variant import AdapterSettings
from bilora.problems.variants.bilora import BiloraSettings
from bilora.runs import adapted_model
from bilora.runs.adapted_model import _refuse_names, linear_layers, put_adapter
from bilora.tasks.catalog import Task
from bilora.tasks.targets import TargetScale, standardise
from bilora.tasks.tokens.task import TokenTask

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER = {**SIZES, "intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0}
DECODER = {**ENCODER, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}
BYTES = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "deberta-v2": lambda: DebertaV2Config(
        **ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8
    ),
    "roberta": lambda: RobertaConfig(**ENCODER),
    "bert": lambda: BertConfig(**ENCODER),
    "mpnet": lambda: MPNetConfig(**ENCODER),
    "distilbert": lambda: DistilBertConfig(vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
    "modernbert": lambda: ModernBertConfig(**ENCODER, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
    "gpt2": lambda: GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=40, **BYTES),
    "llama": lambda: LlamaConfig(**DECODER),
    "qwen2": lambda: Qwen2Config(**DECODER),
    "t5": lambda: T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0, **BYTES
    ),
}
# In peft 0.21 these have no layers that are adapted unless others are named.
WITHOUT_DEFAULT_TARGETS = {"mpnet", "distilbert", "modernbert"}
TASKS = {"text": Task("toy", ("text",), ("a", "b", "c")), "tokens": TokenTask("toy", ("O", "B-x", "I-x"))}
ALL_TASKS = {**TASKS, "number": Task("toy", ("text",), None)}
CASES = [(name, targets) for name in CONFIGS for targets in (None, "all-linear")]
CASES = [(name, targets) for name, targets in CASES if targets or name not in WITHOUT_DEFAULT_TARGETS]


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Eight rows of six tokens that end with the end-of-text token, which T5 reads the whole text from."""
    ids = torch.randint(3, 60, (8, 6), generator=torch.Generator().manual_seed(5))
    ids[:, -1] = 2
    labels = [row % 3 if kind != "tokens" else [-100, *[row % 3] * 4, -100] for row in range(8)]
    return [{"input_ids": tokens.tolist(), "labels": label} for tokens, label in zip(ids, labels, strict=True)]


def collate(rows: Sequence[Any]) -> dict[str, Tensor]:
    batch = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


Load = Callable[..., Loaded]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Save a tiny model without a head, once, and load it with a head that ``seed`` draws."""

    def save_and_load(name: str, kind: str = "text", *, seed: int = 0) -> Loaded:
        if not (tmp_path / name).exists():
            torch.manual_seed(3)
            AutoModel.from_config(CONFIGS[name]()).save_pretrained(tmp_path / name)
        torch.manual_seed(seed)
        return load_model(Tokenizer(str(tmp_path / name), SimpleNamespace(pad_token_id=0)), ALL_TASKS[kind])

    return save_and_load


def adapt(loaded: Loaded, method: str, kind: str = "text", **settings: Any) -> Any:
    task_type = ALL_TASKS[kind].hub_names.peft
    return put_adapter(loaded, method, find_variant(method).settings(**settings), task_type=task_type, steps=20)


@torch.no_grad()
def logits(model: torch.nn.Module, kind: str) -> Tensor:
    batch = collate(rows_of(kind))
    del batch["labels"]
    return model.eval()(**batch).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "targets"), CASES)
@pytest.mark.parametrize("kind", TASKS)
def test_adapter_step_save_reload_and_export(
    load: Load, tmp_path: Path, name: str, kind: str, targets: str | None
) -> None:
    loaded = load(name, kind)
    model = adapt(loaded, "bilora", kind, rank=2, target_modules=targets)
    before = {key: parameter.detach().clone() for key, parameter in trainable_parameters(model).items()}
    level = LevelSettings(batch_size=2, learning_rate=0.05, schedule="constant", warmup=0.0)
    result = fit(
        model,
        rows_of(kind),
        collate=collate,
        variant="bilora",
        variant_settings=BiloraSettings(rank=2, target_modules=targets),
        settings=FitSettings(steps=2, unroll_steps=2, lower=level, upper=level, split_ratio=0.6, device="cpu"),
    )
    assert result.upper_steps == 1
    levels = level_parameters(model)
    after = trainable_parameters(model)
    moved = {key for key, parameter in after.items() if not torch.equal(parameter, before[key])}
    assert moved & set(levels.lower)
    assert moved & set(levels.upper)
    for new in loaded.new_modules:
        assert any(f"{new.split('.')[0]}." in key for key in moved), f"{new} is new and was not trained"

    trained = logits(model, kind)
    model.save_pretrained(str(tmp_path / "adapter"))
    export_lora(model, tmp_path / "lora")
    untrained = load(name, kind, seed=1).model
    assert not torch.allclose(logits(untrained, kind), trained, atol=1e-4)
    reloaded = PeftModel.from_pretrained(untrained, tmp_path / "adapter")
    assert torch.equal(logits(reloaded, kind), trained)
    exported = PeftModel.from_pretrained(load(name, kind, seed=2).model, tmp_path / "lora")
    assert type(exported.base_model).__module__.startswith("peft."), "stock PEFT"
    torch.testing.assert_close(logits(exported, kind), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer"), [("mpnet", "q"), ("distilbert", "q_lin"), ("modernbert", "Wqkv"), ("gpt2", "c_attn")]
)
def test_layers_are_listed_as_they_were_before_the_failure(load: Load, name: str, layer: str) -> None:
    loaded = load(name)
    layers = linear_layers(loaded.model)
    assert layer in layers and not {"LayerNorm", "embeddings"} & set(layers)
    targets = None if name in WITHOUT_DEFAULT_TARGETS else ["no_such_layer"]
    with pytest.raises(
        SettingsError, match=f"linear layers of the model: {', '.join(layers)}; name some as target_mod"
    ):
        adapt(loaded, "bilora", target_modules=targets)


@pytest.mark.parametrize("method", ["bilora", "lora", "adalora", "pseudo_svd"])
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_every_method_trains_what_is_new_whole(load: Load, method: str, targets: str | None) -> None:
    loaded = load("deberta-v2")
    assert loaded.new_modules == ("classifier", "pooler.dense")
    model = adapt(loaded, method, target_modules=targets)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for part in ("pooler.modules_to_save.default.dense.weight", "classifier.modules_to_save.default.weight"):
        alternative = part.replace("pooler.modules_to_save.default.dense", "pooler.dense.modules_to_save.default")
        assert {f"base_model.model.{part}", f"base_model.model.{alternative}"} & trained
    assert not any("original_module" in name for name in trained)
    saved = model.peft_config["default"].modules_to_save
    assert len(saved) == len(set(saved)), "each is named once"


def test_heads_that_only_end_like_one(load: Load) -> None:
    model = adapt(load("distilbert"), "lora", target_modules="all-linear")
    adapted = {name for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted
    assert not any("classifier" in name for name in adapted)


def test_a_method_that_would_leave_something_untrained_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(model: Any, settings: Any, *, task_type: str, steps: int) -> Any:
        return get_peft_model(model, LoraConfig(task_type=task_type))

    lora = dataclasses.replace(find_variant("lora"), adapt=forgetful)
    monkeypatch.setattr(adapted_model, "find_variant", lambda _: lora)
    with pytest.raises(SettingsError, match=r"method 'lora' would leave pooler\.dense of the model as drawn at random"):
        adapt(load("deberta-v2"), "lora")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_head_of_a_regression_is_saved_for_the_labels_as_given(name: str, load: Load, tmp_path: Path) -> None:
    loaded = load(name, "number")
    model = adapt(loaded, "lora", "number", target_modules="all-linear")
    before = logits(model, "number")
    notice = standardise(model, TargetScale(mean=3.0, deviation=4.0), drawn=loaded.new_modules)
    # Heads of decoders have no bias: 5 is the root of 3^2 + 4^2.
    without_bias = name in ("gpt2", "llama", "qwen2")
    assert ("not centred, as the head has no bias" in notice) is without_bias
    expected = 5.0 * before if without_bias else 4.0 * before + 3.0
    torch.testing.assert_close(logits(model, "number"), expected)
    save_adapter(model, tmp_path / "adapter")
    fresh = load_adapter(load(name, "number", seed=1).model, tmp_path / "adapter", base_name=name)
    torch.testing.assert_close(logits(fresh, "number"), expected)


def test_a_rank_is_held_against_the_layer_and_not_against_its_packed_weight() -> None:
    """In 4 bits of bitsandbytes a weight is one long column of bytes."""
    layer = nn.Linear(32, 32)
    layer.weight = nn.Parameter(torch.zeros(512, 1, dtype=torch.uint8), requires_grad=False)
    _refuse_names(layer, "bilora", AdapterSettings(rank=32))
    with pytest.raises(SettingsError, match="rank is 33, and the layers of this model have 32 at most"):
        _refuse_names(layer, "bilora", AdapterSettings(rank=33))
