"""Tokenizers that the tests of several kinds use; none of them may change one."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from bilora.models.embedded import embedded_model_folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of the embedded encoder."""
    return AutoTokenizer.from_pretrained(embedded_model_folder())
