"""Tagging tokens from end to end, with a tiny model and the first sentences of the real corpus."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from programs import results, run_ner
from transformers import AutoModelForTokenClassification

from bilora.models.pretrained import load_tokenizer
from bilora.tasks.catalog import find_task
from bilora.tasks.task import Inference

TAGS = {"O": 0, "B-Disease": 1, "I-Disease": 2}


# A tiny model may find nothing at a validation, and its precision is then undefined.
@pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")
def test_the_committed_config_end_to_end(small: list[str], few_rows: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    """The config that is read where no task is named, with ``--data-dir`` and smaller numbers in front of it."""
    data_dir = few_rows("ner", "ncbi_disease")
    words = ["--data-dir", data_dir, "--method", "bilora", "lora", "--output", tmp_path / "out", "--seeds", "0"]
    ended = run_ner(*small, *words, "--validate-every", "2", "--class-weights", "{O: 0.2}")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("command: python benchmarks/run_ner.py --model ")
    assert "are longer than max_length 32: " in ended.out
    assert "entity_f1" in ended.out
    rows = results(tmp_path / "out")
    assert [row["method"] for row in rows] == ["bilora", "lora"]
    for row in rows:
        assert (row["task"], row["metric"]) == ("ncbi_disease", "entity_f1")
        assert set(row["metrics"]) == {"loss", "entity_f1", "entity_precision", "entity_recall", "token_accuracy"}
        assert row["score"] == row["metrics"]["entity_f1"]
    run = tmp_path / "out" / "bilora-seed0"
    assert json.loads((run / "label_map.json").read_text(encoding="utf-8")) == TAGS
    assert json.loads((run / "label_map.json").read_text()) == TAGS
    predictions = [json.loads(line) for line in (run / "predictions-validation.jsonl").read_text().splitlines()]
    assert len(predictions) == 60
    assert all(len(row["tokens"]) == len(row["tags"]) == len(row["predicted"]) for row in predictions)
    task = find_task("ncbi_disease")
    tokenizer = load_tokenizer(str(tiny_encoder), task, max_length=32)
    data = task.encode(task.load_rows(data_dir).validation["validation"], tokenizer.own, max_length=32)
    for form in ("adapter", "lora"):
        base = AutoModelForTokenClassification.from_pretrained(tiny_encoder, num_labels=3)
        model = PeftModel.from_pretrained(base, run / form)
        evaluated = task.evaluate(Inference(model, tokenizer.own), data)
        assert evaluated.metrics["loss"] == pytest.approx(rows[0]["validation_loss"], abs=1e-6)
        assert evaluated.predictions is not None
        for given, kept in zip(evaluated.predictions, predictions, strict=True):
            assert given.pop("confidence") == pytest.approx(kept["confidence"], abs=2e-6), "the export rounds once more"
            assert given == {name: value for name, value in kept.items() if name != "confidence"}


def test_a_file_of_one_s_own(small: list[str], tmp_path: Path) -> None:
    """Parts of speech: no entities, so tokens are scored; validation is a share of the file."""
    rows = [{"words": ["the", "dog", f"runs{i}"], "pos": ["DET", "NOUN", "VERB"]} for i in range(60)]
    path = tmp_path / "speech.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--train-file", path, "--text-columns", "words", "--label-column", "pos", "--seeds", "0"]
    ended = run_ner(*small, *words, "--method", "lora", "--output", tmp_path / "out")
    assert (ended.code, ended.err) == (0, "")
    assert "(lists, 1 different) make it token_classification" in ended.out
    (row,) = results(tmp_path / "out")
    assert (row["task"], row["metric"]) == ("speech", "token_accuracy")
    label_map = json.loads((tmp_path / "out" / "lora-seed0" / "label_map.json").read_text())
    assert label_map == {"DET": 0, "NOUN": 1, "VERB": 2}
