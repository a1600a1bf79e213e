"""Tiny models of each architecture that matters, the same numbers every time, and a stand-in for training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from bilora import BiloraConfig

WIDTHS = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
ENDS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2}
ENCODER = {**WIDTHS, "max_position_embeddings": 40, "num_labels": 3}
DECODER = {**ENDS, "vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "num_labels": 3}
# Rotary positions, two query heads to one key head, and an output layer that is the embedding.
ROTARY = {**WIDTHS, **ENDS, "num_key_value_heads": 1, "max_position_embeddings": 40, "tie_word_embeddings": True}
# Model, config, and the layers to adapt: query and value; in GPT-2 they are one Conv1D.
KINDS: dict[str, tuple[type[PreTrainedModel], Callable[[], PretrainedConfig], list[str]]] = {
    "bert": (BertForSequenceClassification, lambda: BertConfig(**ENCODER), ["query", "value"]),
    "roberta": (RobertaForSequenceClassification, lambda: RobertaConfig(**ENCODER), ["query", "value"]),
    "gpt2": (GPT2LMHeadModel, lambda: GPT2Config(**DECODER), ["c_attn", "c_proj"]),
    "gpt2-classifier": (GPT2ForSequenceClassification, lambda: GPT2Config(**DECODER), ["c_attn", "c_proj"]),
    "llama": (LlamaForCausalLM, lambda: LlamaConfig(**ROTARY), ["q_proj", "v_proj", "down_proj"]),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Tiny:
    """Tiny models, BERT unless another kind is named, and one batch of tokens."""

    tokens = torch.randint(3, 60, (4, 7), generator=torch.Generator().manual_seed(5))  # (batch, length)

    def base(self, kind: str = "bert") -> PreTrainedModel:
        """Build a model in eval mode; each call gives the same weights."""
        model_class, config, _ = KINDS[kind]
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return model_class._from_config(config(), attn_implementation="eager").eval()

    def adapted(self, kind: str = "bert", base: PreTrainedModel | None = None, **settings: Any) -> PeftModel:
        """Wrap a model; settings overrule the defaults of its kind."""
        task = "CAUSAL_LM" if kind in ("gpt2", "llama") else "SEQ_CLS"
        defaults = {"r": 4, "target_modules": KINDS[kind][2], "task_type": task}
        config = BiloraConfig(**{**defaults, "formulation": "softmax", "normalized": False, **settings})
        return get_peft_model(base or self.base(kind), config).eval()

    @torch.no_grad()
    def train(self, model: nn.Module) -> None:
        """Stand in for training: move every trainable parameter to a random place, far enough to be seen."""
        generator = torch.Generator().manual_seed(11)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.3)

    def trained(self, kind: str = "bert", base: PreTrainedModel | None = None, **settings: Any) -> PeftModel:
        model = self.adapted(kind, base, **settings)
        self.train(model)
        return model

    def loaded(self, folder: Path, kind: str = "bert", **settings: Any) -> PeftModel:
        """Load an adapter onto a fresh model."""
        return PeftModel.from_pretrained(self.base(kind), folder, **settings).eval()

    @torch.no_grad()
    def logits(self, model: nn.Module) -> Tensor:
        return model(input_ids=self.tokens).logits


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()
