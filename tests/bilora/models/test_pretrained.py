"""The tokenizer and the model of a run, from a folder or the hub."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
import tokenizers
import torch
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, GPT2Config, GPT2Model, GPT2Tokenizer

from bilora.errors import DataError
from bilora.files.formats import load_json, write_json
from bilora.models import pretrained
from bilora.models.embedded import embedded_model_folder
from bilora.models.pretrained import Tokenizer, load_model, load_tokenizer, only_local, quiet_peft
from bilora.tasks.catalog import TASKS, find_task

MRPC = TASKS["mrpc"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny random BERT with the embedded tokenizer."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=30522, max_position_embeddings=32, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(embedded_model_folder() / name, tmp_path)
    return tmp_path


def test_tokenizer_of_a_folder_and_of_the_embedded_model(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), MRPC, max_length=32)
    assert (tokenizer.place, tokenizer.notices) == (str(folder), ())
    assert tokenizer.own("good")["input_ids"] == [101, 2204, 102]
    assert Path(load_tokenizer(None, MRPC, max_length=128).place) == embedded_model_folder()


def test_a_length_beyond_the_positions_is_told_before_weights_are_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="max_length is 33, but the bert model has 32 positions"):
        load_tokenizer(str(folder), MRPC, max_length=33)


CLASSES = "single_label_classification"


@pytest.mark.parametrize(
    ("task", "outputs", "problem"), [("mnli", 3, CLASSES), ("mrpc", 2, CLASSES), ("stsb", 1, "regression")]
)
def test_the_head_fits_the_task(folder: Path, task: str, outputs: int, problem: str) -> None:
    tokenizer = load_tokenizer(str(folder), TASKS[task], max_length=32)
    model = load_model(tokenizer, TASKS[task]).model
    assert model.classifier.out_features == outputs
    assert model.config.problem_type == problem
    names = TASKS[task].label_names
    if names is not None:
        assert model.config.id2label == dict(enumerate(names))
        assert model.config.label2id == dict(zip(names, range(outputs), strict=True))


def test_the_head_comes_from_the_random_state(folder: Path) -> None:
    heads, tokenizer = [], load_tokenizer(str(folder), MRPC, max_length=32)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(load_model(tokenizer, TASKS["mnli"]).model.classifier.weight.detach())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_head_of_another_task_is_drawn_anew_and_told(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), MRPC, max_length=32)
    assert load_model(tokenizer, MRPC).notices == (), "its two classes fit"
    loaded = load_model(tokenizer, TASKS["stsb"])
    (notice,) = loaded.notices
    assert "saved classifier is of another task: it has 2 outputs, and 1 are needed" in notice
    assert loaded.new_modules == ("classifier",)


def test_a_config_that_transformers_would_not_save_is_refused(folder: Path) -> None:
    config = load_json(folder / "config.json")
    write_json(folder / "config.json", config | {"output_attentions": True})
    with pytest.raises(DataError, match="config.json has output_attentions true.*; set it to false .*; give --model"):
        load_tokenizer(str(folder), MRPC, max_length=32)


END = "<|endoftext|>"
BYTES = {token: index for index, token in enumerate([*tokenizers.pre_tokenizers.ByteLevel.alphabet(), END])}


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A tiny GPT-2 with a byte-level tokenizer of single bytes, as it is published: without a pad token."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=BYTES, merges=[]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    GPT2Tokenizer(tokenizer_object=model, eos_token=END, bos_token=END).save_pretrained(tmp_path)
    sizes = {"vocab_size": len(BYTES), "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2Model(GPT2Config(**sizes, bos_token_id=BYTES[END], eos_token_id=BYTES[END])).save_pretrained(tmp_path)
    return tmp_path


def test_the_end_of_text_token_pads_where_there_is_no_other(decoder: Path) -> None:
    tokenizer = load_tokenizer(str(decoder), MRPC, max_length=32)
    assert tokenizer.own.pad_token == END
    (notice,) = tokenizer.notices
    assert "no pad token; rows are padded with its end-of-text token '<|endoftext|>'" in notice
    model = load_model(tokenizer, MRPC).model.eval()
    assert model.config.pad_token_id == BYTES[END]
    batches = [tokenizer.own.pad({"input_ids": ids}, return_tensors="pt") for ids in ([[65, 66]], [[65, 66], [65] * 4])]
    alone, padded = (model(**batch).logits[0] for batch in batches)
    torch.testing.assert_close(alone, padded)


def test_a_tokenizer_is_written_where_something_was_filled_in(decoder: Path) -> None:
    place = decoder / "adapter"
    load_tokenizer(None, MRPC, max_length=32).save_filled_in(place)
    assert not place.exists(), "the base's own tokenizer is whole"
    load_tokenizer(str(decoder), MRPC, max_length=32).save_filled_in(place)
    assert AutoTokenizer.from_pretrained(place).pad_token == END


def test_tokens_stand_as_in_running_text(decoder: Path) -> None:
    """A byte-level tokenizer has two forms of a word: at the start of a text, and behind a space."""
    tokenizer = load_tokenizer(str(decoder), find_task("ncbi_disease"), max_length=32).own
    pieces = tokenizer(["a", "b"], is_split_into_words=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(pieces) == ["\u0120", "a", "\u0120", "b"]


def test_a_hub_id_without_network_and_a_folder_without_a_model_are_one_message(tmp_path: Path) -> None:
    hub = r"from the hub id \(or missing folder\) 'org/model': .*; give --model a folder"
    for place, text in (("org/model", hub), (str(tmp_path), f"from the folder '{tmp_path}': ")):
        with pytest.raises(DataError, match=text):
            load_tokenizer(place, MRPC, max_length=32)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("config.json", lambda path: path.write_text("{", encoding="utf-8")),
        ("model.safetensors", lambda path: os.truncate(path, 1000)),
        ("model.safetensors", Path.unlink),
    ],
    ids=["broken JSON", "truncated weights", "missing weights"],
)
def test_damaged_folders(folder: Path, name: str, spoil: Callable[[Path], Any]) -> None:
    spoil(folder / name)
    with pytest.raises(DataError, match="no model can be loaded from the folder"):
        if name == "config.json":
            load_tokenizer(str(folder), MRPC, max_length=32)
        else:
            load_model(Tokenizer(str(folder), None), MRPC)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """A hub that may be asked; what is asked of it. A test says what it answers."""
    questions: list[tuple[str, float]] = []
    monkeypatch.setattr(pretrained, "is_offline_mode", lambda: False)
    only_local.cache_clear()
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda self, name, *, timeout: questions.append((name, timeout))
    )
    return questions


def test_a_hub_that_answers_is_asked_once_and_shortly_and_a_folder_is_not_asked_for(asked: Any, tmp_path: Path) -> None:
    assert [only_local("org/model"), only_local("org/model"), only_local(str(tmp_path))] == [False, False, True]
    assert asked == [("org/model", 3.0)]


NOT_FOUND: Any = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "local"), [(ConnectionError("no route"), True), (HfHubHTTPError("404", response=NOT_FOUND), False)]
)
def test_without_an_answer_the_cache_is_left_and_a_refusal_is_told_by_the_loader(
    asked: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, local: bool
) -> None:
    """Without this, each of the files of a hub that does not answer is tried for 23 seconds."""
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", Mock(side_effect=error))
    assert only_local("org/model") is local


def test_only_the_one_warning_of_peft_is_kept_from_the_user() -> None:
    with quiet_peft():
        warnings.warn("`is_gradient_checkpointing` is deprecated, ...", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning, match="something else"):
            warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("quantisation", "package"),
    [
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, "torchao"),
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
    ],
)
def test_a_base_whose_quantiser_is_not_installed_is_told_by_name(
    folder: Path, quantisation: dict[str, Any], package: str
) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**settings, "quantization_config": quantisation})
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"no model can be loaded from the folder '{folder}': .*{package}"):
        load_model(load_tokenizer(str(folder), MRPC, max_length=32), MRPC)
