"""Plain code for transformers' trainers, as their examples are built, with import and class replaced."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, TrainingArguments, set_seed

from bilora import BiloraConfig
from bilora.commands.train_config import TrainConfig
from bilora.engines import (
    BilevelSeq2SeqTrainer,
    BilevelSeq2SeqTrainingArguments,
    BilevelTrainer,
    BilevelTrainingArguments,
)
from bilora.engines.trainer.plain_arguments import own_arguments
from bilora.errors import SettingsError
from bilora.files.formats import read_lines
from bilora.problems.catalog import DEFAULT_METHOD, find_variant

QUIET: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "report_to": "none"}
NOTICE = "gets that of method 'self_tuned': BiloraConfig"


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture(scope="module")
def reviews(review_file: Path) -> Dataset:
    rows = read_lines(review_file)[:60]
    return Dataset.from_list([{"text": row["text"], "label": int(row["label"] == "positive")} for row in rows])


def run_example(trainer: Any, args: Any, evaluated: Any, predicted: Any, **card: str) -> Any:
    """What an example's script does with its trainer: train, evaluate, predict, and write the card."""
    checkpoint = args.resume_from_checkpoint
    result = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = {**result.metrics, "train_samples": len(trainer.train_dataset)}
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    metrics = trainer.evaluate(eval_dataset=evaluated)
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    prediction = trainer.predict(predicted, metric_key_prefix="predict")
    trainer.create_model_card(finetuned_from="base", **card)
    return prediction


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


SAVED = {"adapter_model.safetensors", "README.md", "train_results.json", "eval_results.json", "trainer_state.json"}


def test_a_script_for_text_classification(tiny_encoder: Path, tokenizer: Any, reviews: Dataset, tmp_path: Path) -> None:
    args = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        do_train=True,
        do_eval=True,
        per_device_train_batch_size=8,
        learning_rate=2e-5,
        num_train_epochs=1,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        **QUIET,
    )
    set_seed(args.seed)
    config = transformers.AutoConfig.from_pretrained(tiny_encoder, num_labels=2, finetuning_task="reviews")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, config=config)
    data = reviews.map(lambda row: tokenizer(row["text"], truncation=True, max_length=16))

    def compute_metrics(p: transformers.EvalPrediction) -> dict[str, float]:
        predictions = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        return {"accuracy": (np.argmax(predictions, axis=1) == p.label_ids).mean()}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = BilevelTrainer(
            model=model,
            args=args,
            train_dataset=data.select(range(40)),
            eval_dataset=data.select(range(40, 60)),
            compute_metrics=compute_metrics,
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        )
    said = [str(warning.message) for warning in caught if "adapter" in str(warning.message)]
    assert [NOTICE in said[1], "learning_rate is 2e-05, as given" in said[0], len(said)] == [True, True, 2]
    predicted = data.select(range(10)).remove_columns("label")
    prediction = run_example(
        trainer, args, data.select(range(40, 60)), predicted, tasks="text-classification", dataset="GLUE", language="en"
    )
    assert prediction.predictions.shape == (10, 2)
    assert trainer.args.learning_rate == 2e-5
    assert "eval_accuracy" in trainer.log_history[-1] | trainer.log_history[-2]
    assert files_of(tmp_path / "out") >= SAVED
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert all(words in card for words in ("- text-classification", "language: en", "as named by the author: GLUE."))


def test_a_script_for_token_classification(
    tiny_encoder: Path, tokenizer: Any, reviews: Dataset, tmp_path: Path
) -> None:
    args = TrainingArguments(str(tmp_path / "out"), max_steps=3, learning_rate=1e-3, seed=3, **QUIET)
    set_seed(args.seed)
    model = transformers.AutoModelForTokenClassification.from_pretrained(tiny_encoder, num_labels=2)

    def tokenize_and_align_labels(examples: Any) -> Any:
        words = [text.split()[:12] for text in examples["text"]]
        tokenized = tokenizer(words, padding=False, truncation=True, max_length=24, is_split_into_words=True)
        labels = []
        for index, split in enumerate(words):
            before, ids = None, []
            for word in tokenized.word_ids(batch_index=index):
                ids.append(-100 if word is None or word == before else int(split[word][0] in "aeiou"))
                before = word
            labels.append(ids)
        tokenized["labels"] = labels
        return tokenized

    data = reviews.remove_columns("label").map(tokenize_and_align_labels, batched=True)

    def compute_metrics(p: Any) -> dict[str, float]:
        predictions, labels = p
        kept = labels != -100
        return {"accuracy": (np.argmax(predictions, axis=2) == labels)[kept].mean()}

    with pytest.warns(UserWarning, match=r"BiloraConfig\(r=8, task_type='TOKEN_CLS'\)"):
        trainer = BilevelTrainer(
            model=model,
            args=args,
            train_dataset=data.select(range(40)),
            eval_dataset=data.select(range(40, 60)),
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
            compute_metrics=compute_metrics,
        )
    prediction = run_example(trainer, args, None, data.select(range(40, 50)), tasks="token-classification")
    assert prediction.predictions.shape[0] == 10
    assert "predict_accuracy" in prediction.metrics
    assert files_of(tmp_path / "out") >= SAVED


def tiny_t5(tokenizer: Any) -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=tokenizer.sep_token_id,
        **sizes,
    )
    return transformers.T5ForConditionalGeneration(config)


def seq2seq_rows(tokenizer: Any, reviews: Dataset) -> Dataset:
    def preprocess(row: Any) -> Any:
        tokens = tokenizer(row["text"], max_length=16, truncation=True)
        labels = tokenizer(text_target=row["text"][:20], max_length=6, truncation=True)
        return {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "labels": labels["input_ids"],
        }

    return reviews.map(preprocess, remove_columns=reviews.column_names)


def test_a_script_for_generation(tokenizer: Any, reviews: Dataset, tmp_path: Path) -> None:
    args = transformers.Seq2SeqTrainingArguments(
        str(tmp_path / "out"),
        max_steps=2,
        learning_rate=1e-3,
        predict_with_generate=True,
        generation_max_length=8,
        **QUIET,
    )
    set_seed(args.seed)
    model, data = tiny_t5(tokenizer), seq2seq_rows(tokenizer, reviews)

    def compute_metrics(eval_preds: Any) -> dict[str, float]:
        predictions, labels = eval_preds
        predictions = np.where(predictions != -100, predictions, tokenizer.pad_token_id)
        texts = tokenizer.batch_decode(predictions, skip_special_tokens=True)
        return {"gen_len": float(np.mean([len(text) for text in texts])), "rows": len(labels)}

    with pytest.warns(UserWarning, match="task_type='SEQ_2_SEQ_LM'"):
        trainer = BilevelSeq2SeqTrainer(
            model=model,
            args=args,
            train_dataset=data.select(range(40)),
            eval_dataset=data.select(range(40, 50)),
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100),
            compute_metrics=compute_metrics,
        )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate(max_length=8, num_beams=2, metric_key_prefix="eval")
    assert metrics["eval_rows"] == 10
    prediction = trainer.predict(data.select(range(5)), metric_key_prefix="predict", max_length=7, num_beams=1)
    assert prediction.predictions.shape[0] == 5
    assert np.issubdtype(prediction.predictions.dtype, np.integer)
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    # The plain trainer would score and pass the request over.
    with pytest.raises(SettingsError, match="take BilevelSeq2SeqTrainer"):
        BilevelTrainer(tiny_t5(tokenizer), args)
    with pytest.raises(SettingsError, match="BilevelSeq2SeqTrainer takes BilevelSeq2SeqTrainingArguments"):
        BilevelSeq2SeqTrainer(tiny_t5(tokenizer), TrainingArguments(str(tmp_path / "b"), **QUIET, learning_rate=1e-3))
    assert BilevelSeq2SeqTrainingArguments(str(tmp_path / "c"), use_cpu=True).learning_rate == 3e-3


def test_plain_arguments_are_obeyed_as_given(tmp_path: Path) -> None:
    plain = TrainingArguments(str(tmp_path), learning_rate=1e-4, weight_decay=0.25, num_train_epochs=2, **QUIET)
    own = own_arguments(plain)
    changed = {"hub_strategy", "mixed_precision"}
    for field in dataclasses.fields(TrainingArguments):
        if field.name not in changed:
            assert getattr(own, field.name) == getattr(plain, field.name), field.name
    settings = own.fit_settings(rows=80, splits=False)
    assert (settings.steps, settings.lower.warmup, settings.lower.weight_decay) == (20, 0.0, 0.25)
    with pytest.warns(UserWarning, match="learning_rate is 5e-05, as given; rates below 0.0001"):
        own_arguments(TrainingArguments(str(tmp_path), **QUIET))
    with pytest.raises(SettingsError, match="arguments: optim is 'adafactor', both levels"):
        own_arguments(TrainingArguments(str(tmp_path), optim="adafactor", learning_rate=1e-3, **QUIET))

    @dataclasses.dataclass
    class Mine(TrainingArguments):
        temperature: float = 2.0

    mine = own_arguments(Mine(str(tmp_path), temperature=3.0, learning_rate=1e-3, **QUIET))
    assert isinstance(mine, Mine)
    assert isinstance(mine, BilevelTrainingArguments)
    assert mine.temperature == 3.0  # type: ignore[attr-defined]


def test_a_weight_decay_that_a_method_learns_is_told(tiny_encoder: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2)
    args = BilevelTrainingArguments(str(tmp_path), weight_decay=0.01, **QUIET)
    config = BiloraConfig(task_type="SEQ_CLS", init_weights="lora")
    with pytest.warns(UserWarning, match="weight_decay is 0.01, and method 'self_tuned' learns its weight decays"):
        BilevelTrainer(model, args, peft_config=config)


def test_several_sets_are_evaluated_in_a_training(
    tiny_encoder: Path, tokenizer: Any, reviews: Dataset, tmp_path: Path
) -> None:
    data = reviews.map(lambda row: tokenizer(row["text"], truncation=True, max_length=16))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2)
    settings = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 9,
        "seed": 1,
    }
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_one_loss", "learning_rate": 0.0}
    settings |= {"upper_learning_rate": 0.0, "per_device_train_batch_size": 8}
    args = BilevelTrainingArguments(str(tmp_path / "out"), **settings, **QUIET)
    trainer = BilevelTrainer(
        model,
        args,
        transformers.DataCollatorWithPadding(tokenizer),
        data.select(range(40)),
        {"one": data.select(range(40, 50)), "two": data.select(range(50, 60))},
        peft_config=BiloraConfig(task_type="SEQ_CLS", r=2),
        variant="bilora",
        callbacks=[transformers.EarlyStoppingCallback(early_stopping_patience=2)],
    )
    assert trainer.train().global_step == 3  # nothing is learned: the first evaluation is the best
    assert sum("eval_two_loss" in entry for entry in trainer.log_history) == 3
    assert trainer.state.best_metric == pytest.approx(trainer.evaluate()["eval_one_loss"])


def test_a_tracker_that_is_named_gets_the_logs(
    tiny_encoder: Path, tokenizer: Any, reviews: Dataset, tmp_path: Path
) -> None:
    data = reviews.map(lambda row: tokenizer(row["text"], truncation=True, max_length=16))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2)
    named = {**QUIET, "report_to": ["tensorboard"], "logging_steps": 1}
    args = BilevelTrainingArguments(str(tmp_path / "out"), max_steps=2, **named)
    config = BiloraConfig(task_type="SEQ_CLS", r=2, init_weights="lora")
    tracker = transformers.integrations.TensorBoardCallback(SummaryWriter(str(tmp_path / "events")))
    trainer = BilevelTrainer(model, args, None, data, None, tokenizer, peft_config=config)
    trainer.remove_callback(transformers.integrations.TensorBoardCallback)
    trainer.add_callback(tracker)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    losses = [entry["loss"] for entry in trainer.log_history if "loss" in entry]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses, rel=1e-6)


def test_the_defaults_of_its_own_arguments_are_those_of_the_command() -> None:
    args, config = BilevelTrainingArguments("out", use_cpu=True), TrainConfig()
    ours = args.fit_settings(rows=1000, splits=True, defaults=find_variant(DEFAULT_METHOD).defaults)
    assert (ours.lower, ours.upper, ours.seed) == (config.lower, config.upper, config.seed)
    assert ours.steps == config.steps_for(1000)


def test_a_model_whose_class_says_no_task_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForMaskedLM.from_config(transformers.AutoConfig.from_pretrained(tiny_encoder))
    with pytest.raises(SettingsError, match="BertForMaskedLM without an adapter, and its class does not say"):
        BilevelTrainer(model, BilevelTrainingArguments(str(tmp_path), use_cpu=True))
    with pytest.raises(SettingsError, match="needs 'model' or 'model_init', and not both"):
        BilevelTrainer()


@pytest.mark.parametrize("kind", ["question", "causal"])
def test_the_default_adapter_is_for_the_task_of_the_models_class(kind: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    rows: list[dict[str, Any]] = [{"input_ids": [1 + index % 5, 2, 3, 4]} for index in range(60)]
    if kind == "question":
        model: Any = transformers.BertForQuestionAnswering(transformers.BertConfig(intermediate_size=16, **sizes))
        rows = [{**row, "start_positions": 1, "end_positions": 2} for row in rows]
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(intermediate_size=16, **sizes))
        rows = [{**row, "labels": row["input_ids"]} for row in rows]
    args = BilevelTrainingArguments(str(tmp_path / "out"), max_steps=2, **QUIET)
    with pytest.warns(UserWarning, match=f"task_type='{'QUESTION_ANS' if kind == 'question' else 'CAUSAL_LM'}'"):
        trainer = BilevelTrainer(model, args, train_dataset=rows[:40], eval_dataset=rows[40:])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] != before


def test_model_init_begins_every_training_anew(
    tiny_encoder: Path, tokenizer: Any, reviews: Dataset, tmp_path: Path
) -> None:
    data = reviews.map(lambda row: tokenizer(row["text"], truncation=True, max_length=16))
    made = []

    def model_init() -> Any:
        made.append(transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2))
        return made[-1]

    class Sees(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.model = given["model"]

    def train(name: str, sees: Sees) -> Any:
        args = BilevelTrainingArguments(str(tmp_path / name), max_steps=2, **QUIET)
        config = BiloraConfig(task_type="SEQ_CLS", r=2, init_weights="lora")
        trainer = BilevelTrainer(
            args=args,
            model_init=model_init,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=config,
            callbacks=[sees],
        )
        trainer.train()
        return trainer

    sees = Sees()
    one, two = train("a", sees), train("b", Sees())
    assert len(made) == 4  # one to look at, and one for each training
    assert sees.model is one.model
    for (name, left), (_, right) in zip(one.model.named_parameters(), two.model.named_parameters(), strict=True):
        assert torch.equal(left, right), name
