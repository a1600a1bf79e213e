"""What holds for every test: the library is there, no network, one thread."""

import contextlib
import functools
import gc
import importlib
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
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
    import torch  # not at the top: without it, the line above is what one should see

    # The models of the tests are too small to share out over threads. With one, float sums also add up in the same
    # order on every machine, whatever its number of cores.
    torch.set_num_threads(1)
    import jinja2

    patch = pytest.MonkeyPatch()
    # Nothing here loses its power: no waiting for the disk.
    patch.setattr(os, "fsync", lambda _: None)
    # PEFT writes a model card with every checkpoint, for which Jinja compiles the same template anew.
    patch.setattr(jinja2.Environment, "compile", functools.lru_cache(jinja2.Environment.compile))


def pytest_collection_finish() -> None:
    """Let garbage collections, which every run makes, look at what tests make and not at what is imported by now."""
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data, one sub-folder a family; tests that need it are skipped where there is none."""
    data = os.environ.get("BILORA_DATA")
    if data is None:
        pytest.skip("BILORA_DATA does not name a folder with data")
    return Path(data)


@pytest.fixture(scope="session")
def glue_folder(real_data: Path) -> Path:
    """The folder with the real GLUE files, one sub-folder a task."""
    return real_data / "glue"


@pytest.fixture(scope="session")
def ner_folder(real_data: Path) -> Path:
    """The folder with the real files of tagged tokens, one sub-folder a task."""
    return real_data / "ner"


TEXTS = (
    "name : The Vaults | Type : pub | food : French | area : riverside | near : Burger King",
    "The Vaults is a family friendly pub near Burger King, in the riverside area. It serves French food.",
)


@pytest.fixture(scope="session")
def causal_tokenizer() -> Any:
    """A byte-level tokenizer of 300 tokens as GPT-2's: begin and end are one token, and there is no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    end, alphabet = "<|endoftext|>", pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


@pytest.fixture
def own_handler() -> Iterator[None]:
    """Give SIGINT back its handler: a program that was interrupted ends at the next one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random one-layer BERT with the tokenizer of the embedded model; its outputs differ well between rows."""
    import torch
    from transformers import BertConfig, BertModel

    from bilora.models import embedded_model_folder

    folder = tmp_path_factory.mktemp("tiny-encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, initializer_range=0.5, **sizes)
    with contextlib.redirect_stderr(io.StringIO()):
        BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(embedded_model_folder() / name, folder)
    return folder


@pytest.fixture(scope="session")
def review_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 labelled sentences as JSON lines, with the names of their classes."""
    from bilora.models import embedded_reviews
    from bilora.tasks import take_rows

    path = tmp_path_factory.mktemp("rows") / "reviews.jsonl"
    rows = take_rows(embedded_reviews(), 120, seed=0)
    names = ("negative", "positive")
    lines = [json.dumps({"text": row["text"], "label": names[row["label"]]}) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@dataclass
class CommandRun:
    """A run that ``bilora train`` made."""

    folder: Path
    words: list[str]
    code: int
    out: str


@pytest.fixture(scope="session")
def command_run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, review_file: Path) -> CommandRun:
    """Train BiLoRA with little more than a model and a file, once for all tests."""
    from bilora.commands.train import TRAIN

    folder = tmp_path_factory.mktemp("command") / "run"
    words = ["--model", str(tiny_encoder), "--train-file", str(review_file), "--output", str(folder)]
    words += ["--max-length", "32", "--device", "cpu", "--epochs", "4", "--lower.learning-rate", "0.02"]
    words += ["--report-to", "tensorboard", "--seed", "3", "--method", "bilora"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = TRAIN.run(words)
    return CommandRun(folder, words, code, out.getvalue())
