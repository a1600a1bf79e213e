"""Tiny models of each architecture that matters, the same numbers every time, and a stand-in for training."""

from collections.abc import Callable
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
TASKS = {kind: "CAUSAL_LM" if kind in ("gpt2", "llama") else "SEQ_CLS" for kind in KINDS}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_model() -> Callable[[str], PreTrainedModel]:
    """Build a tiny model by kind, in eval mode; each call gives the same weights."""

    def build(kind: str) -> PreTrainedModel:
        model_class, config, _ = KINDS[kind]
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return model_class._from_config(config(), attn_implementation="eager").eval()

    return build


@pytest.fixture(scope="session")
def targets() -> dict[str, list[str]]:
    """Names of the layers to adapt, by kind of model."""
    return {kind: names for kind, (_, _, names) in KINDS.items()}


@pytest.fixture(scope="session")
def tasks() -> dict[str, str]:
    """PEFT's task type, by kind of model."""
    return TASKS


@pytest.fixture
def tokens() -> Tensor:
    """A batch of token ids, ``(batch, length)``."""
    return torch.randint(3, 60, (4, 7), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def train() -> Callable[[nn.Module], None]:
    """Stand in for training: move every trainable parameter to a random place, far enough to be seen."""

    @torch.no_grad()
    def move(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(11)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.3)

    return move


@pytest.fixture(scope="session")
def logits() -> Callable[[nn.Module, Tensor], Tensor]:
    """Run a model without gradients."""

    @torch.no_grad()
    def run(model: nn.Module, tokens: Tensor) -> Tensor:
        return model(input_ids=tokens).logits

    return run


@pytest.fixture
def adapt(
    make_model: Callable[[str], PreTrainedModel], targets: dict[str, list[str]], tasks: dict[str, str]
) -> Callable[..., PeftModel]:
    """Wrap a tiny model; settings overrule the defaults of its kind."""

    def wrap(kind: str = "bert", base: PreTrainedModel | None = None, **settings: Any) -> PeftModel:
        defaults = {"r": 4, "target_modules": targets[kind], "task_type": tasks[kind]}
        config = BiloraConfig(**{**defaults, "formulation": "softmax", "normalized": False, **settings})
        return get_peft_model(base or make_model(kind), config).eval()

    return wrap
