"""run_nlg.py with random models of two architectures on pieces of real E2E: what it writes, and what it refuses."""

import contextlib
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from programs import results, run_nlg
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from bilora.metrics.texts import score_texts, text_metric
from bilora.models import embedded
from bilora.models.pretrained import quiet_peft
from bilora.tasks.catalog import GENERATION_TASKS
from bilora.tasks.generation.decoding import Decoding, decode
from bilora.tasks.task import Inference

METHODS = ("bilora", "lora", "adalora", "pseudo_svd")
SHARED: dict[str, Any] = {"vocab_size": 300, "initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory, causal_tokenizer: Any) -> Path:
    """Conv1D layers, learned positions, and a tokenizer without a pad token."""
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=256, **SHARED)
    return saved(GPT2LMHeadModel, config, tmp_path_factory.mktemp("tiny-gpt2"), causal_tokenizer)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, causal_tokenizer: Any) -> Path:
    """Rotary positions, and key heads that query heads share."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 256}
    config = LlamaConfig(**sizes, **heads, **SHARED)
    return saved(LlamaForCausalLM, config, tmp_path_factory.mktemp("tiny-llama"), causal_tokenizer)


def saved(kind: Any, config: Any, folder: Path, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    with contextlib.redirect_stderr(io.StringIO()):
        kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of E2E's sets, each with its first three references."""
    root = tmp_path_factory.mktemp("data")
    (root / "e2e").mkdir()
    for name, rows in (("train.jsonl.gz", 20), ("validation.jsonl", 8), ("test.jsonl", 6)):
        source = real_data / "e2e" / name
        opened: Any = gzip.open if source.suffix == ".gz" else open
        with opened(source, "rt", encoding="utf-8") as file:
            found = [json.loads(line) for _, line in zip(range(rows), file, strict=False)]
        lines = [json.dumps(row | {"references": row["references"][:3]}) + "\n" for row in found]
        (root / "e2e" / name.removesuffix(".gz")).write_text("".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def words(data: Path) -> list[str]:
    sizes = "--steps 4 --unroll-steps 2 --max-length 200 --device cpu --seeds 0 --lower.batch-size 4"
    rates = "--upper.batch-size 4 --lower.learning-rate 0.05"
    decoding = "--task-settings.beams 3 --task-settings.max-new-tokens 20"
    return [*f"--task e2e --data-dir {data} {sizes} {rates} {decoding}".split()]


@pytest.fixture(scope="module")
def folder(words: list[str], gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runs") / "gpt2"
    ended = run_nlg(*words, "--model", gpt2, "--method", *METHODS, "--output", target)
    assert ended.code == 0, ended.err
    assert "note: the tokenizer has no pad token; rows are padded with its end-of-text token" in ended.out
    assert "e2e: 1 seeds, test split" in ended.out
    return target


@pytest.fixture(scope="module")
def llama_folder(words: list[str], llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runs") / "llama"
    assert run_nlg(*words, "--model", llama, "--method", "bilora", "--output", target).code == 0
    return target


def test_rows_of_results_have_the_same_keys_as_those_of_glue(folder: Path) -> None:
    rows = results(folder)
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert (row["task"], row["metric"]) == ("e2e", "bleu")
        assert set(row["metrics"]) == {"loss", "perplexity", *GENERATION_TASKS["e2e"].metric_keys}
        assert row["score"] == row["metrics"]["bleu"]
        assert row["validation_loss"] == row["metrics"]["loss"]


@pytest.mark.parametrize("method", METHODS)
def test_texts_references_and_scores_belong_together(folder: Path, data: Path, method: str) -> None:
    """The scores again, from the files alone."""
    run = folder / f"{method}-seed0"
    outputs = (run / "outputs.txt").read_text(encoding="utf-8").splitlines()
    test = GENERATION_TASKS["e2e"].load_rows(data).validation["test"]
    blocks = (run / "references.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert [block.splitlines() for block in blocks] == [row["references"] for row in test]
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    assert (scores["rows"], scores["decoding"]["beams"], scores["decoding"]["length_penalty"]) == (6, 3, 0.9)
    metrics = [text_metric(key) for key in GENERATION_TASKS["e2e"].metric_keys]
    again = score_texts(metrics, outputs, [row["references"] for row in test])
    assert {key: scores["metrics"][key] for key in again} == pytest.approx(again)
    lines = (run / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["output"] for line in lines] == outputs
    assert [json.loads(line)["source"] for line in lines] == [row["source"] for row in test]


@pytest.mark.parametrize(("architecture", "runs"), [("gpt2", "folder"), ("llama", "llama_folder")])
@pytest.mark.parametrize("form", ["adapter", "lora"])
def test_saved_adapters_give_the_same_texts(request: Any, data: Path, architecture: str, runs: str, form: str) -> None:
    base_folder, run = request.getfixturevalue(architecture), request.getfixturevalue(runs) / "bilora-seed0"
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.pad_token = tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    decoding = Decoding(beams=3, length_penalty=0.9, max_new_tokens=20)
    sources = [row["source"] for row in GENERATION_TASKS["e2e"].load_rows(data).validation["test"]]
    before = decode(Inference(base, tokenizer), sources, decoding)
    with quiet_peft():
        model = PeftModel.from_pretrained(base, run / form)
    outputs = (run / "outputs.txt").read_text(encoding="utf-8").splitlines()
    assert decode(Inference(model, tokenizer), sources, decoding) == outputs
    assert before != outputs


def test_the_same_command_twice_writes_the_same(folder: Path, words: list[str], gpt2: Path, tmp_path: Path) -> None:
    assert run_nlg(*words, "--model", gpt2, "--method", "bilora", "--output", tmp_path / "again").code == 0
    for name in ("outputs.txt", "scores.json", "metrics.jsonl", "adapter/adapter_model.safetensors"):
        once, twice = (root / "bilora-seed0" / name for root in (folder, tmp_path / "again"))
        assert once.read_bytes() == twice.read_bytes(), name


def test_the_default_config_runs_offline_on_other_data(data: Path, llama: Path, tmp_path: Path) -> None:
    """configs/e2e_small.yaml with a random model and few rows."""
    few = ["--train-rows", "12", "--steps", "4", "--task-settings.generate-rows", "3", "--task-settings.beams", "2"]
    ended = run_nlg("--data-dir", data, "--model", llama, *few, "--max-length", "200", "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "note: 3 of the 8 validation rows are scored" in ended.out
    (bilora, lora) = results(tmp_path / "run")
    assert (bilora["method"], lora["method"]) == ("bilora", "lora")
    (split,) = json.loads((tmp_path / "run" / "bilora-seed0" / "split.json").read_text(encoding="utf-8"))
    assert len(split["lower"]) + len(split["upper"]) == 12  # rows, each with all its references
    assert not (tmp_path / "run" / "lora-seed0" / "split.json").exists()


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("gpt2", "--task-settings.beams 0", "decoding: beams is 0, it must be at least 1"),
        ("gpt2", "--task-settings.d2 test", "task_settings of task 'e2e'.*d2"),
        ("gpt2", "--keep-best true --validate-every 2", "choose by the test set.*set task_settings.d2 to split"),
        ("gpt2", "--max-length 20", r"test\.jsonl:1: the input has .* tokens, which max_length 20 leaves no room"),
        ("tiny_encoder", "--max-length 64", "no end-of-text token"),
        (None, "--model smollm2", "the package no-such-package is not installed"),
        (None, "", "the package no-such-package is not installed"),
    ],
)
def test_bad_words_end_with_one_line_and_code_2(
    request: Any, monkeypatch: Any, words: list[str], tmp_path: Path, model: str | None, more: str, said: str
) -> None:
    monkeypatch.setattr(embedded, "SMOLLM2_PACKAGE", "no_such_package")
    named = ["--model", request.getfixturevalue(model)] if model else []
    run_nlg(*words, *named, "--output", tmp_path / "run", *more.split()).check_refused(said)
