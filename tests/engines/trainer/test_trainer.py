"""The trainer in transformers' names: it goes the road of ``fit``, and its numbers are those of the model."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from bilora import BiloraConfig
from bilora.commands.predict import PREDICT
from bilora.engines import BilevelTrainer, BilevelTrainingArguments, fit
from bilora.engines.callbacks.callback import Callback
from bilora.errors import CheckpointError, DataError, InterruptedRun, SettingsError
from bilora.problems.variants.bilora import BiloraSettings
from bilora.tasks.catalog import Task
from bilora.tasks.task_files import read_task
from bilora.tasks.text.batches import Collator

OWN = {"per_device_train_batch_size": 8, "max_steps": 6, "unroll_steps": 2, "learning_rate": 0.05, "use_cpu": True}


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture
def rows(review_file: Path, tokenizer: Any) -> Dataset:
    lines = [json.loads(line) for line in review_file.read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_list([{"text": row["text"], "label": int(row["label"] == "positive")} for row in lines])
    return data.map(lambda row: tokenizer(row["text"], truncation=True, max_length=32))


def accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def fresh(place: Path) -> Any:
    set_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)


def trainer(place: Path, folder: Path, tokenizer: Any, rows: Dataset | None, **options: Any) -> BilevelTrainer:
    own = {**OWN, **options.pop("args", {})}
    set_seed(0)
    return BilevelTrainer(
        fresh(place),
        BilevelTrainingArguments(str(folder), **own),
        train_dataset=None if rows is None else rows.select(range(80)),
        eval_dataset=None if rows is None else rows.select(range(80, 120)),
        compute_metrics=accuracy,
        processing_class=tokenizer,
        **{"peft_config": BiloraConfig(task_type="SEQ_CLS", r=4, alpha=8), **options},
    )


def test_it_goes_the_road_of_fit(tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset) -> None:
    made = trainer(tiny_encoder, tmp_path / "out", tokenizer, rows)
    other = trainer(tiny_encoder, tmp_path / "other", tokenizer, rows)
    done = made.train()
    encoded = [{**tokenizer(row["text"], truncation=True, max_length=32), "labels": row["label"]} for row in rows]
    settings = other.args.fit_settings(rows=80, splits=True)
    own = BiloraSettings(rank=4)
    fit(other.model, encoded[:80], collate=Collator(tokenizer), variant_settings=own, settings=settings)
    assert done.global_step == 6
    for (name, one), (_, two) in zip(made.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(one, two), name


def test_evaluation_is_of_the_model_as_it_is(tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset) -> None:
    """Against the model alone, one row at a time."""
    made = trainer(tiny_encoder, tmp_path / "out", tokenizer, rows, args={"per_device_eval_batch_size": 7})
    losses, right = [], 0
    made.model.eval()
    for row in rows.select(range(80, 120)):
        tokens = tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            output = made.model(**tokens, labels=torch.tensor([row["label"]]))
        losses.append(float(output.loss))
        right += int(output.logits.argmax()) == row["label"]
    found = made.evaluate()
    assert found["eval_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert found["eval_accuracy"] == right / 40
    assert found["eval_samples_per_second"] > 0


def test_the_best_evaluation_is_kept_and_told(
    tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset
) -> None:
    own = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "learning_rate": 0.5}
    made = trainer(tiny_encoder, tmp_path / "out", tokenizer, rows, args=own)
    made.train()
    seen = [entry["eval_loss"] for entry in made.log_history if "eval_loss" in entry]
    assert len(seen) == 6
    assert min(seen) < seen[-1]  # else the last would be the best, and keeping it no test
    assert made.evaluate()["eval_loss"] == pytest.approx(min(seen), abs=1e-6)
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_metric"] == min(seen)
    assert state["best_global_step"] == 1 + seen.index(min(seen))
    assert state["log_history"] == made.log_history


def test_predictions_need_no_labels_and_keep_the_order(
    tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset
) -> None:
    made = trainer(tiny_encoder, tmp_path / "out", tokenizer, rows)
    with_labels = made.predict(rows.select(range(20)))
    without = made.predict(rows.select(range(20)).remove_columns("label"))
    assert without.label_ids is None
    assert without.metrics == {}
    assert np.allclose(without.predictions, with_labels.predictions, atol=1e-6)
    assert with_labels.label_ids.tolist() == rows.select(range(20))["label"][:]
    assert set(with_labels.metrics) == {"test_loss", "test_accuracy"}


def test_what_is_saved_is_the_model(tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset) -> None:
    made = trainer(tiny_encoder, tmp_path / "out", tokenizer, rows)
    made.train()
    made.save_model()
    again = PeftModel.from_pretrained(fresh(tiny_encoder), str(tmp_path / "out"))
    one = BilevelTrainer(again, made.args, eval_dataset=rows.select(range(80, 120)), processing_class=tokenizer)
    assert one.evaluate()["eval_loss"] == made.evaluate()["eval_loss"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").vocab_size == tokenizer.vocab_size
    with pytest.raises(SettingsError, match="holds an earlier training"):
        made.train()


@pytest.mark.parametrize("named", [False, True])
def test_a_training_goes_on_to_the_same_numbers(
    named: bool, tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset
) -> None:
    own = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3}
    whole = trainer(tiny_encoder, tmp_path / "whole", tokenizer, rows, args=own)
    done = whole.train()
    with pytest.raises(InterruptedRun):
        trainer(tiny_encoder, tmp_path / "part", tokenizer, rows, args=own, callbacks=[Stopping(4)]).train()
    again = trainer(tiny_encoder, tmp_path / "part", tokenizer, rows, args=own)
    with pytest.raises(SettingsError, match="go on from its checkpoints"):
        again.train()
    resumed = again.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-2") if named else True)
    assert (resumed.global_step, resumed.training_loss) == (done.global_step, done.training_loss)
    assert again.log_history == whole.log_history
    for (name, one), (_, two) in zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, two), name


class Stopping(Callback):
    """As a SIGTERM in a step would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, engine: Any, record: Any) -> None:
        """Raise the signal, if it is time."""
        if record.step == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_newest_checkpoints_are_kept_and_a_missing_one_is_told(
    tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset
) -> None:
    own = {"save_strategy": "epoch", "save_total_limit": 1, "max_steps": 16}
    trainer(tiny_encoder, tmp_path / "out", tokenizer, rows, args=own).train()
    # An epoch of D1 is 8 steps.
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-16"]
    with pytest.raises(CheckpointError, match="holds no checkpoint; set save_strategy"):
        trainer(tiny_encoder, tmp_path / "none", tokenizer, rows).train(resume_from_checkpoint=True)


def test_what_is_saved_is_what_a_run_saves(
    tiny_encoder: Path, review_file: Path, tmp_path: Path, tokenizer: Any, rows: Dataset
) -> None:
    """With the task, the verbs of the command take the folder."""
    task = Task("reviews", ("text",), ("negative", "positive"))
    own = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "learning_rate": 0.5}
    made = trainer(tiny_encoder, tmp_path / "out", tokenizer, rows, args=own, task=task, max_length=32)
    made.train()
    folder = tmp_path / "saved"
    made.save_model(str(folder))
    seen = [entry["eval_loss"] for entry in made.log_history if "eval_loss" in entry]
    best = min(seen)
    assert f"{best:.4f}" != f"{seen[-1]:.4f}"  # else the last would do
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| train | 80 |\n| eval | 40 |" in card
    assert f"| loss | {best:.4f} |" in card
    assert "num_labels=2" in card
    assert read_task(folder) == (task, 32)
    assert PREDICT.run([str(folder), "--file", str(review_file), "--output", str(tmp_path / "out.jsonl")]) == 0
    said = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = made.predict(rows).predictions.argmax(-1)
    assert [row["prediction"] for row in said] == [task.label_names[index] for index in chosen]
    with pytest.raises(SettingsError, match="task 'reviews' has 3 outputs, and the model has 2"):
        trainer(tiny_encoder, tmp_path / "a", tokenizer, rows, task=Task("reviews", ("text",), ("a", "b", "c")))


def test_an_adapter_of_another_name_has_its_card_beside_it(
    tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset
) -> None:
    model = get_peft_model(fresh(tiny_encoder), BiloraConfig(task_type="SEQ_CLS", r=4), adapter_name="mine")
    args = BilevelTrainingArguments(str(tmp_path / "out"), use_cpu=True)
    BilevelTrainer(model, args, processing_class=tokenizer).save_model()
    card = (tmp_path / "out" / "mine" / "README.md").read_text(encoding="utf-8")
    assert "None were taken" in card
    assert "# own data: bilora adapter" in card
    assert not (tmp_path / "out" / "mine" / "bilora_task.json").exists()


def test_a_single_level_method_trains_on_all_rows(
    tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset
) -> None:
    config = LoraConfig(task_type="SEQ_CLS", r=4)
    own = {"max_steps": -1, "num_train_epochs": 2}
    made = trainer(tiny_encoder, tmp_path / "out", tokenizer, rows, args=own, peft_config=config, variant="lora")
    assert made.train().global_step == 20
    below = trainer(tiny_encoder, tmp_path / "two", tokenizer, rows, args=own)
    assert below.train().global_step == 16  # of D1, with 64 of the 80 rows


def test_what_is_missing_is_told(tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset) -> None:
    with pytest.raises(SettingsError, match="without an adapter; give peft_config"):
        trainer(tiny_encoder, tmp_path / "a", tokenizer, rows, peft_config=None)
    with pytest.raises(DataError, match=r"train_dataset\[0\] has the columns text, label; .* tokenise"):
        trainer(tiny_encoder, tmp_path / "b", tokenizer, rows.select_columns(["text", "label"]))
    empty = trainer(tiny_encoder, tmp_path / "c", tokenizer, None)
    with pytest.raises(SettingsError, match="give 'train_dataset'"):
        empty.train()
    with pytest.raises(SettingsError, match="give 'eval_dataset'"):
        empty.evaluate()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"load_best_model_at_end": True}, "set steps or epoch"),
        ({"eval_strategy": "steps"}, "eval_strategy 'steps' needs it"),
        ({"bf16": True, "fp16": True}, "take one of them"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"save_steps": 0}, "save_steps is 0"),
        ({"save_total_limit": 0}, "save_total_limit is 0"),
        ({"save_strategy": "best"}, "allowed: no, steps, epoch"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"report_to": "tensorbord"}, "Did you mean 'tensorboard'?"),
        ({"hypergradient": "neuman"}, "Did you mean 'neumann'?"),
    ],
)
def test_bad_arguments_are_told_when_they_are_made(own: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said.replace("?", r"\?")):
        BilevelTrainingArguments("out", **own)


def test_names_with_and_without_the_prefix_are_one_metric() -> None:
    own = {"eval_strategy": "epoch", "load_best_model_at_end": True}
    assert BilevelTrainingArguments("out", metric_for_best_model="eval_accuracy", **own).monitor.greater_is_better
    loss = BilevelTrainingArguments("out", metric_for_best_model="eval_loss", **own).monitor
    assert (loss.metric, loss.greater_is_better) == ("loss", False)
