"""A task of several labels per text on every road: train, evaluate, predict, export, report, card, and the trainer."""

import contextlib
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bilora import BiloraConfig
from bilora.commands.evaluate import EVALUATE
from bilora.commands.export import EXPORT
from bilora.commands.predict import PREDICT
from bilora.commands.report import REPORT
from bilora.commands.train import TRAIN
from bilora.engines import BilevelTrainer, BilevelTrainingArguments
from bilora.tasks.kinds import read_task
from bilora.tasks.multilabel.task import MultilabelTask

WORDS = {"fine": "good", "dull": "bad", "long": "slow"}
NAMES = ["bad", "good", "slow"]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def predicted(adapter: Path, rows: Path, *options: str) -> list[dict[str, Any]]:
    output = rows.with_name(f"{adapter.name}.jsonl")
    assert PREDICT.run([str(adapter), "--file", str(rows), "--output", str(output), *options]) == 0
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 rows whose labels follow from their words, as columns of 0 and 1."""
    path = tmp_path_factory.mktemp("rows") / "films.csv"
    lines = [",".join(["text", *WORDS.values()])]
    for number in range(160):
        marks = [number >> bit & 1 for bit in range(3)]
        words = itertools.compress(WORDS, marks) if any(marks) else ["plain"]
        lines.append(",".join([f"a {' and '.join(words)} film", *map(str, marks)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, rows_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("multilabel") / "run"
    words = ["--model", tiny_encoder, "--train-file", rows_file, "--label-column", "bad", "good", "slow"]
    words += ["--validation-share", "0.2", "--max-length", "16", "--device", "cpu", "--epochs", "30"]
    words += ["--method", "bilora", "--lower.learning-rate", "0.05", "--class-weights", "auto", "--output", folder]
    with contextlib.redirect_stdout(io.StringIO()):
        assert TRAIN.run([str(word) for word in words]) == 0
    return folder


def test_training_learns_the_labels_and_writes_its_folder_and_report(run: Path, tmp_path: Path) -> None:
    results = read(run / "all_results.json")
    assert results["metric"] == "micro_f1" and results["score"] > 0.9
    assert {"loss", "micro_f1", "macro_f1", "subset_accuracy"} == set(results["metrics"])
    assert [row["label"] for row in read(run / "labels.json")] == NAMES
    assert read(run / "label_map.json") == {"bad": 0, "good": 1, "slow": 2}
    task, _ = read_task(run / "adapter")
    assert isinstance(task, MultilabelTask) and task.label_columns == ("bad", "good", "slow")
    card = (run / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card and "num_labels=3" in card
    assert REPORT.run([str(run), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "micro_f1" in page and "Scores by label" in page
    assert (tmp_path / "report-figures" / "labels.png").is_file()


def test_evaluate_prints_the_table_by_label(
    run: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert EVALUATE.run([str(run), "--output", str(tmp_path / "own.json")]) == 0
    score = read(run / "all_results.json")["score"]
    assert read(tmp_path / "own.json")["micro_f1"] == pytest.approx(score, abs=1e-6)
    assert "by class" in capsys.readouterr().out
    assert EVALUATE.run([str(run), "--data", str(rows_file), "--output", str(tmp_path / "file.json")]) == 0
    assert read(tmp_path / "file.json")["rows"] == 160


@pytest.mark.parametrize("field", ["method", "task_type", "formulation"])
def test_evaluate_imports_no_code_that_a_folder_names(
    run: Path, tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(run, tmp_path / "run")
    (tmp_path / "foreign.py").write_text("open('imported', 'w').close()\nNAME = 1\n", encoding="utf-8")
    settings = yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))
    (copy / "config.yaml").write_text(yaml.safe_dump(settings | {field: "foreign:NAME"}), encoding="utf-8")
    assert EVALUATE.run([str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{field} 'foreign:NAME' is code that a file names" in line
    assert "--trust-code" in line
    assert not (tmp_path / "imported").exists()


def test_predict_names_labels_and_an_export_says_the_same(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text("text\na fine and dull film\na plain film\n", encoding="utf-8")
    assert EXPORT.run([str(run), "--output", str(tmp_path / "lora")]) == 0
    one, two = (predicted(adapter, bare) for adapter in (run, tmp_path / "lora"))
    assert {"bad", "good"} <= set(one[0]["prediction"])
    assert one[1]["prediction"] == []
    for first, second in zip(one, two, strict=True):
        assert first["prediction"] == [name for name in NAMES if first["probabilities"][name] >= 0.5]
        assert first["probabilities"] == pytest.approx(second["probabilities"], abs=1e-5)


def test_the_trainer_saves_a_folder_that_predicts(tiny_encoder: Path, tmp_path: Path) -> None:
    task = MultilabelTask("films", ("text",), ("bad", "good"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    rows = [{**tokenizer(f"a {word} film"), "labels": [float(word == "dull"), float(word == "fine")]} for word in WORDS]
    base = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, **task.model_settings)
    trainer = BilevelTrainer(
        base,
        BilevelTrainingArguments(str(tmp_path / "out"), max_steps=2, unroll_steps=1, use_cpu=True),
        train_dataset=Dataset.from_list(rows * 20),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=BiloraConfig(task_type="SEQ_CLS", r=2, init_weights="lora"),
        task=task,
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model(str(tmp_path / "saved"))
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"text": "a fine film"}\n', encoding="utf-8")
    (row,) = predicted(tmp_path / "saved", bare, "--model", str(tiny_encoder))
    assert set(row["probabilities"]) == {"bad", "good"}
