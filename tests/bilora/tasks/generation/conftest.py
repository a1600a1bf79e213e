"""A decoder, and the tokenizer of one with a pad token."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel


@pytest.fixture
def tokenizer(causal_tokenizer: Any) -> Iterator[Any]:
    """The tests' byte-level tokenizer, which pads with its end-of-text token for one test."""
    causal_tokenizer.pad_token = causal_tokenizer.eos_token
    yield causal_tokenizer
    causal_tokenizer.pad_token = None


@pytest.fixture
def model() -> Any:
    """A random GPT-2 of one layer whose outputs differ well between words."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 96}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5, bos_token_id=0, eos_token_id=0))
