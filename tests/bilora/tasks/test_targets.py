"""Standardised labels against closed forms, and folders that stock PEFT loads for the labels as given."""

import csv
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from bilora.artifacts.adapter_files import save_adapter
from bilora.commands.train import TRAIN
from bilora.data.rows import check_rows
from bilora.engines.checkpoints.config_change import check_changes
from bilora.errors import CheckpointError, DataError
from bilora.files.formats import load_json, read_lines
from bilora.problems.catalog import find_variant
from bilora.tasks import Task
from bilora.tasks.targets import TargetScale, standardise

TASK = Task("prices", ("text",), None, metric="pearson", label_field="price")
SIZES: dict[str, Any] = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 8, "initializer_range": 0.5, "hidden_dropout_prob": 0.0, "num_labels": 1}
SCALE = TargetScale(mean=50.0, deviation=4.0)
LABELS = torch.tensor([44.0, 50.0, 60.0])


def rows_of(*labels: float) -> Any:
    pairs = enumerate(({"text": f"row {label}", "price": label} for label in labels), start=1)
    return check_rows(pairs, TASK, source="prices.csv", split="train")


def base(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = BertConfig(**SIZES, attention_probs_dropout_prob=0.0, problem_type="regression", **settings)
    return BertForSequenceClassification(config)


def adapted(method: str = "lora", model: Any = None) -> Any:
    variant = find_variant(method)
    model = variant.adapt(model or base(), variant.settings(rank=2, dropout=0.0), task_type="SEQ_CLS", steps=8)
    return model.eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 60, (3, 5), generator=torch.Generator().manual_seed(0))}


def test_mean_and_deviation_are_those_of_the_rows() -> None:
    assert TASK.target_scale(rows_of(1.0, 2.0, 3.0, 6.0)) == TargetScale(3.0, math.sqrt(3.5))
    assert Task("toy", ("text",), ("no", "yes")).target_scale(rows_of(1.0)) is None


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ((2.5, 2.5), "prices.csv: 'price' is 2.5 in all 2 training rows"),
        ((1e9, 1e9 + 1), "'price' is 1e[+]09 in all 2 training rows"),  # one number in float32
        ((1.0, 1e39), "'price' has numbers beyond float32"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels: tuple[float, ...], text: str) -> None:
    with pytest.raises(DataError, match=text):
        TASK.target_scale(rows_of(*labels))


@pytest.mark.parametrize("method", ["lora", "bilora", "adalora"])
def test_the_value_is_of_the_labels_and_the_gradient_of_the_standardised_ones(
    method: str, batch: dict[str, Tensor]
) -> None:
    model = adapted(method)
    head = model.get_base_model().classifier.modules_to_save.default
    standard = (LABELS - 50.0) / 4.0
    before = model(**batch, labels=standard)
    (wanted,) = torch.autograd.grad(before.loss, head.weight)
    added = before.loss - nn.functional.mse_loss(before.logits.squeeze(-1), standard)  # AdaLoRA's regularizer
    standardise(model, SCALE, drawn=["classifier"])
    answers = 4.0 * before.logits + 50.0
    after = model(**batch, labels=LABELS)
    (gradient,) = torch.autograd.grad(after.loss, head.weight)
    torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(after.loss, nn.functional.mse_loss(answers.squeeze(-1), LABELS) + added)
    torch.testing.assert_close(model(**batch).logits, answers)


@pytest.mark.parametrize("method", ["lora", "bilora"])
def test_a_saved_head_answers_alone(method: str, batch: dict[str, Tensor], tmp_path: Path) -> None:
    model = adapted(method)
    head = model.get_base_model().classifier.modules_to_save.default
    standardise(model, SCALE, drawn=["classifier"])
    raw = head.weight.detach().clone(), head.bias.detach().clone()
    saved = load_file(save_adapter(model, tmp_path / "adapter") / "adapter_model.safetensors")
    assert torch.equal(saved["base_model.model.classifier.weight"], 4.0 * raw[0])
    assert torch.equal(saved["base_model.model.classifier.bias"], 4.0 * raw[1] + 50.0)
    assert torch.equal(head.weight, raw[0]), "saving changes nothing of what is trained"
    torch.manual_seed(1)  # the base's own head is not the trained one
    loaded = PeftModel.from_pretrained(base(), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)


def test_a_head_that_came_with_the_base_keeps_its_answers(batch: dict[str, Tensor]) -> None:
    model = adapted()
    before = model(**batch).logits
    standardise(model, SCALE, drawn=[])
    torch.testing.assert_close(model(**batch).logits, before, atol=1e-5, rtol=0)


def test_a_head_without_bias_is_not_centred(batch: dict[str, Tensor], tmp_path: Path) -> None:
    def decoder() -> Any:
        torch.manual_seed(0)
        sizes = {name: size for name, size in SIZES.items() if name != "hidden_dropout_prob"}
        return LlamaForSequenceClassification(LlamaConfig(**sizes, problem_type="regression", pad_token_id=0))

    model = adapted(model=decoder())
    before = model(**batch).logits
    notice = standardise(model, TargetScale(mean=3.0, deviation=4.0), drawn=["score"])
    assert "divided by 5 for training, and not centred, as the head has no bias" in notice
    torch.testing.assert_close(model(**batch).logits, 5.0 * before)  # sqrt(3^2 + 4^2)
    save_adapter(model, tmp_path)
    loaded = PeftModel.from_pretrained(decoder(), str(tmp_path)).eval()
    torch.testing.assert_close(loaded(**batch).logits, 5.0 * before)


def test_a_head_that_is_no_linear_layer_is_told_and_left_alone(batch: dict[str, Tensor]) -> None:
    model = base()
    model.classifier = nn.Sequential(nn.Linear(8, 1), nn.PReLU())
    model = adapted(model=model)
    before = model(**batch).logits
    assert "trained on as they are" in standardise(model, SCALE, drawn=["classifier"])
    assert torch.equal(model(**batch).logits, before)


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """Sixty rows of two words, whose label is 1,000 more or less 10."""
    path = tmp_path / "prices.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "price"))
        for index in range(60):
            writer.writerow((f"{('good', 'bad')[index % 2]} film {index}", 1000 + (10, -10)[index % 2] + index / 100))
    return path


def test_a_run_answers_in_the_units_of_its_file(prices: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--train-file", prices, "--label-column", "price", "--model", tiny_encoder, "--output", run]
    words += ["--steps", 12, "--validate-every", 6, "--save-every", 6, "--keep-best", "false", "--early-stopping", 0]
    words += ["--lower.batch-size", 8, "--upper.batch-size", 8, "--unroll-steps", 2, "--device", "cpu"]
    words = [str(word) for word in (*words, "--max-length", 16, "--method", "bilora")]
    # Exit 0: the self-check has loaded both adapters, and found the trained model's answers.
    assert TRAIN.run(words) == 0
    heads = [
        load_file(run / name / "adapter_model.safetensors") for name in ("adapter", "lora", "checkpoint-12/adapter")
    ]
    for name in ("weight", "bias"):
        first, *others = (head[f"base_model.model.classifier.{name}"] for head in heads)
        assert all(torch.equal(first, other) for other in others), "a checkpoint's adapter is in these units too"
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1)
    model = PeftModel.from_pretrained(model, str(run / "lora")).eval()
    (answers,) = run.glob("predictions-*.jsonl")
    lines = read_lines(answers)
    texts = {
        round(float(price), 6): text for text, price in list(csv.reader(prices.read_text("utf-8").splitlines()))[1:]
    }
    for line in lines:
        assert line["prediction"] == pytest.approx(1000, abs=60), "untrained on them it would be near 0"
        logits = model(**tokenizer(texts[round(line["label"], 6)], return_tensors="pt")).logits
        assert line["prediction"] == pytest.approx(float(logits), abs=1e-2)
    steps = [line for line in read_lines(run / "metrics.jsonl") if "lower_loss" in line]
    told = [line.get("validation", line.get("d2")) for line in read_lines(run / "metrics.jsonl")]
    losses = [numbers["loss"] for numbers in told if numbers]
    error = statistics.fmean((line["prediction"] - line["label"]) ** 2 for line in lines)
    assert losses[-1] == pytest.approx(error, rel=1e-3)
    assert steps[0]["lower_loss"] > 10, "of deviation 10, the squared error of a model that knows nothing is near 100"
    about = load_json(run / "checkpoint-12" / "manifest.json")["run"]
    assert about["targets"]["mean"] == pytest.approx(1000, abs=5)
    assert about["targets"]["deviation"] == pytest.approx(10, abs=1)
    # What a checkpoint holds means something else where the labels are scaled otherwise, or not at all.
    for other in ({}, {"targets": {"mean": 0.0, "deviation": 1.0}}):
        with pytest.raises(CheckpointError, match=r"these cannot change within a run: targets\.mean"):
            check_changes({**about, "targets": None} | other, about, allow=True)
    # Gone on with from the middle, it ends with the same numbers.
    again = shutil.copytree(run, tmp_path / "again")
    shutil.rmtree(again / "checkpoint-12")
    for name in ("finished.json", "all_results.json"):
        (again / name).unlink()
    assert TRAIN.run(["--resume", str(again)]) == 0
    resumed = load_file(again / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in heads[0].items())
