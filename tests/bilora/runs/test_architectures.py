"""Every architecture that users bring, tiny and random: adapter, a bi-level step, save, reload, export."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
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
from bilora.engines import FitSettings, LevelSettings, fit
from bilora.errors import SettingsError
from bilora.models.pretrained import Tokenizer, load_model
from bilora.problems.variants.bilora import BiloraSettings
from bilora.runs.adapted_model import put_adapter
from bilora.tasks.catalog import Task
from bilora.tasks.task import AnyTask
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
CASES = [
    (name, kind, targets)
    for name in CONFIGS
    for kind in TASKS
    for targets in (None, "all-linear")
    if not (targets is None and name in WITHOUT_DEFAULT_TARGETS)
]


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Eight rows of six tokens that end with the end-of-text token, which T5 reads the whole text from."""
    ids = torch.randint(3, 60, (8, 6), generator=torch.Generator().manual_seed(5))
    ids[:, -1] = 2
    labels = [place % 3 for place in range(8)]
    return [
        {"input_ids": own.tolist(), "labels": label if kind == "text" else [-100, *[label] * 4, -100]}
        for own, label in zip(ids, labels, strict=True)
    ]


def collate(rows: Sequence[Any]) -> dict[str, Tensor]:
    batch = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


@pytest.fixture
def base(tmp_path: Path) -> Callable[[str], Tokenizer]:
    """Save a tiny model without a head; return what says where it is."""

    def save(name: str) -> Tokenizer:
        torch.manual_seed(3)
        AutoModel.from_config(CONFIGS[name]()).save_pretrained(tmp_path / "base")
        return Tokenizer(str(tmp_path / "base"), SimpleNamespace(pad_token_id=0))

    return save


@torch.no_grad()
def logits(model: torch.nn.Module, kind: str) -> Tensor:
    batch = collate(rows_of(kind))
    del batch["labels"]
    return model.eval()(**batch).logits  # type: ignore[no-any-return]


def fresh(place: Tokenizer, task: AnyTask, *, seed: int) -> Any:
    """The model with a head drawn from another seed than the trained one's."""
    torch.manual_seed(seed)
    return load_model(place, task).model


@pytest.mark.parametrize(("name", "kind", "targets"), CASES)
def test_adapter_step_save_reload_and_export(
    base: Callable[[str], Tokenizer], tmp_path: Path, name: str, kind: str, targets: str | None
) -> None:
    place, own = base(name), TASKS[kind]
    torch.manual_seed(0)
    loaded = load_model(place, own)
    settings = BiloraSettings(rank=2, target_modules=targets)
    model = put_adapter(loaded, "bilora", settings, task_type=own.hub_names.peft, steps=2)
    before = {key: each.detach().clone() for key, each in trainable_parameters(model).items()}
    level = LevelSettings(batch_size=2, learning_rate=0.05, schedule="constant", warmup=0.0)
    result = fit(
        model,
        rows_of(kind),
        collate=collate,
        variant_settings=settings,
        settings=FitSettings(steps=2, unroll_steps=2, lower=level, upper=level, split_ratio=0.6, device="cpu"),
    )
    assert result.upper_steps == 1
    levels = level_parameters(model)
    moved = {key for key, each in trainable_parameters(model).items() if not torch.equal(each, before[key])}
    assert moved & set(levels.lower)
    assert moved & set(levels.upper)
    for new in loaded.new_modules:
        assert any(f"{new.split('.')[0]}." in key for key in moved), f"{new} is new and was not trained"

    trained = logits(model, kind)
    model.save_pretrained(str(tmp_path / "adapter"))
    export_lora(model, tmp_path / "lora")
    untrained = fresh(place, own, seed=1)
    assert not torch.allclose(logits(untrained, kind), trained, atol=1e-4)
    reloaded = PeftModel.from_pretrained(untrained, tmp_path / "adapter")
    assert torch.equal(logits(reloaded, kind), trained)
    exported = PeftModel.from_pretrained(fresh(place, own, seed=2), tmp_path / "lora")
    assert type(exported.base_model).__module__.startswith("peft."), "stock PEFT"
    torch.testing.assert_close(logits(exported, kind), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "layer"), [("mpnet", "q"), ("distilbert", "q_lin"), ("modernbert", "Wqkv")])
def test_without_default_targets_the_layers_are_listed(base: Callable[[str], Tokenizer], name: str, layer: str) -> None:
    place, own = base(name), TASKS["text"]
    loaded = load_model(place, own)
    with pytest.raises(
        SettingsError, match=rf"linear layers of the model: .*\b{layer}\b.*; name some as target_modules"
    ):
        put_adapter(loaded, "bilora", BiloraSettings(), task_type=own.hub_names.peft, steps=2)
