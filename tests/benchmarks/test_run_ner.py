"""Tagging tokens from end to end, with a tiny model and the first sentences of the real corpus."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoConfig, AutoModelForTokenClassification

from bilora.models.pretrained import load_tokenizer
from bilora.tasks.catalog import find_task
from bilora.tasks.task import Inference

TAGS = {"O": 0, "B-Disease": 1, "I-Disease": 2}


@pytest.fixture
def words(small: list[str], few_rows: Any, tmp_path: Path) -> list[str]:
    folder = few_rows("ner", "ncbi_disease")
    return [*small, "--data-dir", str(folder), "--method", "bilora", "lora", "--output", str(tmp_path / "out")]


# A tiny model may find nothing at a validation, and its precision is then undefined.
@pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")
def test_the_committed_config_end_to_end(
    run_ner_command: Any, read_results: Any, words: list[str], tiny_encoder: Path, tmp_path: Path
) -> None:
    """The config that is read where no task is named, with ``--data-dir`` and smaller numbers in front of it."""
    ended = run_ner_command([*words, "--seeds", "0", "--validate-every", "2", "--class-weights", "{O: 0.2}"])
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("command: python benchmarks/run_ner.py --model ")
    assert "are longer than max_length 32: " in ended.out
    assert "entity_f1" in ended.out
    rows = read_results(tmp_path / "out")
    assert [row["method"] for row in rows] == ["bilora", "lora"]
    for row in rows:
        assert (row["task"], row["metric"]) == ("ncbi_disease", "entity_f1")
        assert set(row["metrics"]) == {"loss", "entity_f1", "entity_precision", "entity_recall", "token_accuracy"}
        assert row["score"] == row["metrics"]["entity_f1"]
    run = tmp_path / "out" / "bilora-seed0"
    assert json.loads((run / "label_map.json").read_text(encoding="utf-8")) == TAGS
    assert AutoConfig.from_pretrained(run / "adapter").label2id == TAGS
    predictions = [json.loads(line) for line in (run / "predictions-validation.jsonl").read_text().splitlines()]
    assert len(predictions) == 60
    assert all(len(row["tokens"]) == len(row["tags"]) == len(row["predicted"]) for row in predictions)
    task = find_task("ncbi_disease")
    sets = task.load_rows(words[words.index("--data-dir") + 1])
    tokenizer = load_tokenizer(str(tiny_encoder), task, max_length=32)
    data = task.encode(sets.validation["validation"], tokenizer.own, max_length=32)
    for form in ("adapter", "lora"):
        base = AutoModelForTokenClassification.from_pretrained(tiny_encoder, num_labels=3)
        model = PeftModel.from_pretrained(base, run / form)
        found = task.evaluate(Inference(model, tokenizer.own), data)
        assert found.metrics["loss"] == pytest.approx(rows[0]["validation_loss"], abs=1e-6)
        assert found.predictions == predictions


def test_a_file_of_one_s_own(run_ner_command: Any, read_results: Any, small: list[str], tmp_path: Path) -> None:
    """Parts of speech: no entities, so tokens are scored; validation is a share of the file."""
    rows = [{"words": ["the", "dog", f"runs{i}"], "pos": ["DET", "NOUN", "VERB"]} for i in range(60)]
    path = tmp_path / "speech.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--train-file", str(path), "--text-columns", "words", "--label-column", "pos", "--seeds", "0"]
    ended = run_ner_command([*small, *words, "--method", "lora", "--output", str(tmp_path / "out")])
    assert (ended.code, ended.err) == (0, "")
    assert "(lists, 1 different) make it token_classification" in ended.out
    (row,) = read_results(tmp_path / "out")
    assert (row["task"], row["metric"]) == ("speech", "token_accuracy")
    label_map = json.loads((tmp_path / "out" / "lora-seed0" / "label_map.json").read_text())
    assert label_map == {"DET": 0, "NOUN": 1, "VERB": 2}
