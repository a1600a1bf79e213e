"""The tokenizer of a decoder, with a pad token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def tokenizer(causal_tokenizer: Any) -> Iterator[Any]:
    """The tests' byte-level tokenizer, which pads with its end-of-text token for one test."""
    causal_tokenizer.pad_token = causal_tokenizer.eos_token
    yield causal_tokenizer
    causal_tokenizer.pad_token = None
