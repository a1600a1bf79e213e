"""Random transformers of two layers with eager attention, which has second derivatives."""

from typing import Any

from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 32}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}


def tiny_bert(dropout: float, *, attention: str = "eager") -> nn.Module:
    """Return a BERT with two labels."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "classifier_dropout": dropout}
    widths = {"num_attention_heads": 2, "intermediate_size": 64, "attn_implementation": attention}
    return BertForSequenceClassification(BertConfig(**SIZES, **widths, **rates))


def tiny_gpt2(dropout: float, **settings: Any) -> nn.Module:
    """Return a GPT-2, of Conv1D layers."""
    rates = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, **ENDS, **rates, **settings)
    return GPT2LMHeadModel(config)


def tiny_llama(dropout: float, **settings: Any) -> nn.Module:
    """Return a Llama: rotary positions, shared key heads, tied output."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "tie_word_embeddings": True}
    config = LlamaConfig(**SIZES, **heads, **ENDS, attention_dropout=dropout, pad_token_id=0, **settings)
    return LlamaForCausalLM(config)
