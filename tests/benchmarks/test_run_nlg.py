"""run_nlg.py with random models of two architectures on pieces of real E2E: what it writes, and what it refuses."""

import contextlib
import gzip
import io
import itertools
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
def models(tmp_path_factory: pytest.TempPathFactory, causal_tokenizer: Any, tiny_encoder: Path) -> dict[str, Path]:
    """Random models: GPT-2 has Conv1D layers and learned positions, Llama rotary ones and key heads that are shared."""
    gpt2 = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=256, **SHARED)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 256}
    folders = {"encoder": tiny_encoder}
    for kind, config in ((GPT2LMHeadModel, gpt2), (LlamaForCausalLM, LlamaConfig(**sizes, **heads, **SHARED))):
        folder = folders[config.model_type] = tmp_path_factory.mktemp(config.model_type)
        torch.manual_seed(0)
        with contextlib.redirect_stderr(io.StringIO()):
            kind(config).save_pretrained(folder)
        causal_tokenizer.save_pretrained(folder)  # without a pad token
    return folders


@pytest.fixture(scope="module")
def data(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of E2E's sets, each with its first three references."""
    root = tmp_path_factory.mktemp("data")
    (root / "e2e").mkdir()
    for name, rows in (("train.jsonl.gz", 20), ("validation.jsonl", 8), ("test.jsonl", 6)):
        source = real_data / "e2e" / name
        opened: Any = gzip.open if source.suffix == ".gz" else open
        with opened(source, "rt", encoding="utf-8") as file:
            first = [json.loads(line) for line in itertools.islice(file, rows)]
        lines = [json.dumps(row | {"references": row["references"][:3]}) + "\n" for row in first]
        (root / "e2e" / name.removesuffix(".gz")).write_text("".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def words(data: Path) -> list[str]:
    sizes = "--steps 4 --unroll-steps 2 --max-length 200 --device cpu --seeds 0 --lower.batch-size 4"
    rates = "--upper.batch-size 4 --lower.learning-rate 0.05"
    decoding = "--task-settings.beams 3 --task-settings.max-new-tokens 20"
    return [*f"--task e2e --data-dir {data} {sizes} {rates} {decoding}".split()]


@pytest.fixture(scope="module")
def runs(words: list[str], models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of all methods on GPT-2, and that of BiLoRA alone on Llama."""
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in ("gpt2", "llama")}
    for name, methods in (("gpt2", METHODS), ("llama", METHODS[:1])):
        ended = run_nlg(*words, "--model", models[name], "--method", *methods, "--output", folders[name])
        assert ended.code == 0, ended.err
        assert "note: the tokenizer has no pad token; rows are padded with its end-of-text token" in ended.out
        assert "e2e: 1 seeds, test split" in ended.out
    return folders


def test_rows_of_results_have_the_same_keys_as_those_of_glue(runs: dict[str, Path]) -> None:
    rows = results(runs["gpt2"])
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert (row["task"], row["metric"]) == ("e2e", "bleu")
        assert set(row["metrics"]) == {"loss", "perplexity", *GENERATION_TASKS["e2e"].metric_keys}
        assert row["score"] == row["metrics"]["bleu"]
        assert row["validation_loss"] == row["metrics"]["loss"]


@pytest.mark.parametrize("method", METHODS)
def test_texts_references_and_scores_belong_together(runs: dict[str, Path], data: Path, method: str) -> None:
    """The scores again, from the files alone."""
    run = runs["gpt2"] / f"{method}-seed0"
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


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("form", ["adapter", "lora"])
def test_saved_adapters_give_the_same_texts(models: Any, runs: Any, data: Path, architecture: str, form: str) -> None:
    run = runs[architecture] / "bilora-seed0"
    tokenizer = AutoTokenizer.from_pretrained(models[architecture])
    tokenizer.pad_token = tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(models[architecture])
    decoding = Decoding(beams=3, length_penalty=0.9, max_new_tokens=20)
    sources = [row["source"] for row in GENERATION_TASKS["e2e"].load_rows(data).validation["test"]]
    before = decode(Inference(base, tokenizer), sources, decoding)
    with quiet_peft():
        model = PeftModel.from_pretrained(base, run / form)
    outputs = (run / "outputs.txt").read_text(encoding="utf-8").splitlines()
    assert decode(Inference(model, tokenizer), sources, decoding) == outputs
    assert before != outputs


def test_the_same_command_twice_writes_the_same(runs: Any, words: list[str], models: Any, tmp_path: Path) -> None:
    assert run_nlg(*words, "--model", models["gpt2"], "--method", "bilora", "--output", tmp_path / "again").code == 0
    for name in ("outputs.txt", "scores.json", "metrics.jsonl", "adapter/adapter_model.safetensors"):
        once, twice = (root / "bilora-seed0" / name for root in (runs["gpt2"], tmp_path / "again"))
        assert once.read_bytes() == twice.read_bytes(), name


def test_the_default_config_runs_offline_on_other_data(data: Path, models: Any, tmp_path: Path) -> None:
    """configs/e2e_small.yaml with a random model and few rows."""
    few = "--train-rows 12 --steps 4 --task-settings.generate-rows 3 --task-settings.beams 2 --max-length 200"
    ended = run_nlg("--data-dir", data, "--model", models["llama"], *few.split(), "--output", tmp_path / "run")
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
        ("encoder", "--max-length 64", "no end-of-text token"),
        (None, "--model smollm2", "the package no-such-package is not installed"),
        (None, "", "the package no-such-package is not installed"),
    ],
)
def test_bad_words_end_with_one_line_and_code_2(
    models: Any, monkeypatch: Any, words: list[str], tmp_path: Path, model: str | None, more: str, said: str
) -> None:
    monkeypatch.setattr(embedded, "SMOLLM2_PACKAGE", "no_such_package")
    named = ["--model", models[model]] if model else []
    run_nlg(*words, *named, "--output", tmp_path / "run", *more.split()).check_refused(said)
