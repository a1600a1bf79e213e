"""What holds for every test: the library is there, no network, one thread."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports huggingface_hub, which reads it once: a test that asks a hub fails, anywhere.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Stop with one line, not with an import error a file, when the checkout is not set up."""
    try:
        importlib.import_module("bilora.problems")
    except ModuleNotFoundError as error:
        raise pytest.UsageError(
            f"{error}: bilora is not installed; run 'make setup', or pip install -e '.[dev]' in the checkout"
        ) from error
    except ImportError as error:
        if error.name != "betty":
            raise  # a fault of ours, better seen whole
        raise pytest.UsageError(str(error)) from error
    one_thread()


def one_thread() -> None:
    """The models of the tests are too small to share out over threads.

    With one, float sums also add up in the same order on every machine, whatever its number of cores.
    """
    import torch  # not at the top: without it, the line above is what one should see

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def glue_folder() -> Path:
    """The folder with the real GLUE files, one sub-folder a task."""
    return data_folder() / "glue"


@pytest.fixture(scope="session")
def ner_folder() -> Path:
    """The folder with the real files of tagged tokens, one sub-folder a task."""
    return data_folder() / "ner"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with all real files, those of data-to-text tasks among them."""
    return data_folder()


def data_folder() -> Path:
    """The folder with real data; tests that need it are skipped where there is none."""
    data = os.environ.get("BILORA_DATA")
    if data is None:
        pytest.skip("BILORA_DATA does not name a folder with data")
    return Path(data)


TEXTS = (
    "name : The Vaults | Type : pub | food : French | area : riverside | near : Burger King",
    "The Vaults is a family friendly pub near Burger King, in the riverside area. It serves French food.",
)


@pytest.fixture(scope="session")
def causal_tokenizer() -> Any:
    """A byte-level tokenizer of 300 tokens as GPT-2's: begin and end are one token, and there is no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    own.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@pytest.fixture
def own_handler() -> Iterator[None]:
    """Give SIGINT back its handler: a program that was interrupted ends at the next one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
