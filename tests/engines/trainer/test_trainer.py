"""The trainer: transformers' code with other class names, the road of ``fit``, and the numbers of the model."""

import dataclasses
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from bilora import BiloraConfig
from bilora.commands.predict import PREDICT
from bilora.engines import BilevelTrainer, BilevelTrainingArguments, FitSettings, fit
from bilora.engines.callbacks.callback import Callback
from bilora.engines.checkpoints.files import checkpoints
from bilora.engines.trainer.trainer import NOT_FIRED
from bilora.errors import CheckpointError, DataError, InterruptedRun, SettingsError
from bilora.files.formats import read_lines
from bilora.metrics.monitor import Monitor
from bilora.problems.variants.bilora import BiloraSettings
from bilora.problems.variants.self_tuned import SelfTunedSettings
from bilora.tasks.catalog import Task
from bilora.tasks.kinds import read_task
from bilora.tasks.text.batches import Collator

QUIET = {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8}
DEFAULTS = {**QUIET, "max_steps": 6, "unroll_steps": 2, "learning_rate": 0.05}
BEST = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "learning_rate": 0.5}


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture(scope="module")
def rows(review_file: Path, tiny_encoder: Path) -> Dataset:
    """The reviews with their tokens, once for all tests: to map is to hash a whole tokenizer."""
    tokenizer, reviews = transformers.AutoTokenizer.from_pretrained(tiny_encoder), read_lines(review_file)
    data = Dataset.from_list([{"text": row["text"], "label": int(row["label"] == "positive")} for row in reviews])
    return data.map(lambda row: tokenizer(row["text"], truncation=True, max_length=32))


def bilora_config() -> BiloraConfig:
    return BiloraConfig(task_type="SEQ_CLS", r=4, formulation="softmax", alpha=8)


def accuracy(prediction: Any) -> dict[str, float]:
    # A number of numpy, as metrics often are.
    return {"accuracy": np.mean(prediction.predictions.argmax(-1) == prediction.label_ids)}


def fresh(folder: Path, **config: Any) -> Any:
    set_seed(0)
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, **{"num_labels": 2, **config})


class Making:
    """Makes trainers over the reviews; ``args`` and any argument of the trainer may be given."""

    def __init__(self, model: Path, folder: Path, tokenizer: Any, rows: Dataset) -> None:
        self.model, self.folder, self.tokenizer, self.rows = model, folder, tokenizer, rows

    def __call__(self, name: str = "out", *, kind: Any = BilevelTrainer, **options: Any) -> Any:
        args = BilevelTrainingArguments(str(self.folder / name), **{**DEFAULTS, **options.pop("args", {})})
        given = {
            "train_dataset": self.rows.select(range(80)),
            "eval_dataset": self.rows.select(range(80, 120)),
            "compute_metrics": accuracy,
            "processing_class": self.tokenizer,
            "peft_config": bilora_config(),
            "variant": "bilora",
        }
        return kind(options.pop("model", None) or fresh(self.model), args, **{**given, **options})


@pytest.fixture
def make(tiny_encoder: Path, tmp_path: Path, tokenizer: Any, rows: Dataset) -> Making:
    return Making(tiny_encoder, tmp_path, tokenizer, rows)


def assert_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, left), (_, right) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(left, right), name


def evaluations(trainer: Any) -> list[float]:
    return [entry["eval_loss"] for entry in trainer.log_history if "eval_loss" in entry]


def metrics_of(make: Making, name: str) -> list[dict[str, Any]]:
    return read_lines(make.folder / name / "metrics.jsonl")


class Events(TrainerCallback):
    """Notes every event with the step it came at, as ordinary callbacks see them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []


for event in (name for name in dir(TrainerCallback) if name.startswith("on_") and name not in NOT_FIRED):

    def note(self: Any, args: Any, state: Any, control: Any, event: str = event, **given: Any) -> None:
        assert {"model", "optimizer", "lr_scheduler", "processing_class"} <= set(given)
        self.seen.append((event, state.global_step))

    setattr(Events, event, note)


def script(kind: Any, arguments_class: Any, make: Making, name: str, **options: Any) -> Any:
    """Ordinary code for transformers' Trainer, and what it can look at afterwards."""
    events, rows, folder = Events(), make.rows, str(make.folder / name)
    settings = {"num_train_epochs": 3, "learning_rate": 5e-3, "per_device_eval_batch_size": 16, "logging_steps": 5}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "report_to": "none", "seed": 1}
    trainer = kind(
        options.pop("model"),
        arguments_class(output_dir=folder, **QUIET, **settings, **options.pop("args")),
        train_dataset=rows.select(range(64)),
        eval_dataset=rows.select(range(80, 120)),
        processing_class=make.tokenizer,
        compute_metrics=accuracy,
        callbacks=[events, EarlyStoppingCallback(early_stopping_patience=20)],
        preprocess_logits_for_metrics=lambda logits, labels: logits * 1.0,
        **options,
    )
    result = trainer.train()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    evaluated = trainer.evaluate()
    predicted = trainer.predict(rows.select(range(70, 80)).remove_columns("label"))
    trainer.save_model(f"{folder}/final")
    return events.seen, result, evaluated, predicted, trainer


@pytest.mark.parametrize(
    "args",
    [
        {"eval_strategy": "epoch", "save_strategy": "epoch"},
        {"eval_strategy": "steps", "eval_steps": 6, "save_strategy": "steps", "save_steps": 6, "eval_on_start": True},
        {"eval_strategy": "steps", "eval_steps": 0.25, "save_strategy": "best", "eval_delay": 7},
    ],
    ids=["epoch", "steps", "best"],
)
def test_code_for_the_trainer_of_transformers_runs_with_other_class_names(args: dict[str, Any], make: Making) -> None:
    """The same script with both: events in the same order, logs with the same keys at the same steps."""
    theirs, ours = make.folder / "theirs", make.folder / "ours"
    lora = get_peft_model(fresh(make.model), LoraConfig(task_type="SEQ_CLS", r=4))
    one = script(Trainer, TrainingArguments, make, "theirs", model=lora, args=args)
    rows = make.rows.select(range(64, 80))
    upper = {"upper_dataset": rows, "peft_config": bilora_config(), "variant": "bilora"}
    two = script(BilevelTrainer, BilevelTrainingArguments, make, "ours", model=fresh(make.model), args=args, **upper)
    if args["save_strategy"] == "best":  # which steps are the best ones differs
        without = [[(event, step) for event, step in events if event != "on_save"] for events in (one[0], two[0])]
        assert without[0] == without[1] != two[0]
    else:
        assert one[0] == two[0]
        names = [{path.name for path in folder.glob("checkpoint-*")} for folder in (theirs, ours)]
        assert names[0] == names[1]
    differ = {"upper_loss", "hypergradient_norm", "upper_learning_rate", "total_flos", "eval_model_preparation_time"}
    assert one[1].global_step == two[1].global_step == 24
    assert set(one[1].metrics) - differ == set(two[1].metrics)
    assert set(one[2]) - differ == set(two[2]) - differ
    assert two[3].predictions.shape == one[3].predictions.shape == (10, 2)
    assert two[3].label_ids is None
    logs = [[(entry["step"], set(entry) - differ) for entry in run[4].state.log_history] for run in (one, two)]
    assert logs[0] == logs[1]
    state = transformers.TrainerState.load_from_json(str(ours / "trainer_state.json"))
    assert state.best_metric == max(entry["eval_accuracy"] for entry in state.log_history if "eval_accuracy" in entry)
    assert (state.epoch, state.max_steps, state.num_train_epochs) == (3.0, 24, 3)
    assert (ours / "train_results.json").exists()
    assert (ours / "final" / "adapter_model.safetensors").exists()
    assert not list(ours.rglob("*.bin"))  # which hold pickles


class Asking(TrainerCallback):
    def __init__(self, step: int, **flags: bool) -> None:
        self.step, self.flags = step, flags

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        if state.global_step == self.step:
            vars(control).update(self.flags)
        return control


def test_the_control_of_a_callback_is_obeyed(make: Making) -> None:
    asking = Asking(3, should_log=True, should_evaluate=True, should_save=True, should_training_stop=True)
    trainer = make(args={"save_strategy": "steps", "save_steps": 500}, callbacks=[asking])
    assert trainer.train().global_step == 3
    assert checkpoints(make.folder / "out") == [(3, make.folder / "out" / "checkpoint-3")]
    assert [set(entry) & {"loss", "eval_loss"} for entry in trainer.log_history] == [{"loss"}, {"eval_loss"}, set()]
    # With eval_strategy "no" nothing is evaluated, though there are rows to evaluate.
    for name, args, evaluated in (("a", {}, []), ("b", {"eval_strategy": "steps", "eval_steps": 2}, [4, 6])):
        vetoed = make(name, args=args, callbacks=[Asking(2, should_evaluate=False)])
        vetoed.train()
        assert [entry["step"] for entry in vetoed.log_history if "eval_loss" in entry] == evaluated
    with pytest.raises(SettingsError, match="set control.should_save, and save_strategy is 'no'"):
        make("fourth", callbacks=[Asking(2, should_save=True)]).train()
    with pytest.raises(SettingsError, match="set control.should_epoch_stop"):
        make("fifth", callbacks=[Asking(2, should_epoch_stop=True)]).train()


def test_early_stopping_callbacks_stop_and_go_on_counting(make: Making) -> None:
    args = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 12, "learning_rate": 0.0, "save_strategy": "steps"}
    args |= {"save_steps": 2, "upper_learning_rate": 0.0}  # nothing is learned, so that no loss is better

    def early(name: str, *others: Any) -> Any:
        return make(name, args=args, callbacks=[EarlyStoppingCallback(early_stopping_patience=5), *others])

    assert early("whole").train().global_step == 6
    with pytest.raises(InterruptedRun):
        early("part", Stopping(4)).train()
    assert early("part").train(resume_from_checkpoint=True).global_step == 6


def halved(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
    return 0.5 * functional.cross_entropy(outputs.logits, labels)


class Halved(BilevelTrainer):
    """A user's own loss, which takes the labels off its batch, as many do."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        return (halved(outputs, labels), outputs) if return_outputs else halved(outputs, labels)


def test_a_loss_of_the_users_own_is_that_of_both_levels(make: Making) -> None:
    plain, overridden, by_function = make("a"), make("b", kind=Halved), make("c", compute_loss_func=halved)
    overridden.train(), by_function.train(), plain.train()
    before, after = metrics_of(make, "a"), metrics_of(make, "b")
    assert after[0]["lower_task_loss"] == pytest.approx(before[0]["lower_task_loss"] / 2, rel=1e-6)
    first = [next(line["upper_loss"] for line in lines if "upper_loss" in line) for lines in (before, after)]
    assert first[1] < 0.6 * first[0]
    assert_equal(overridden.model, by_function.model)
    assert overridden.evaluate()["eval_loss"] == pytest.approx(by_function.evaluate()["eval_loss"])
    make("d", args={"label_smoothing_factor": 0.5}).train()
    assert metrics_of(make, "d")[0]["lower_task_loss"] != before[0]["lower_task_loss"]


def test_a_loss_of_the_users_own_leaves_no_room_for_weights_of_classes(make: Making) -> None:
    config = BiloraConfig(task_type="SEQ_CLS", r=2, init_weights="lora")
    given = {"variant": "self_tuned", "variant_settings": SelfTunedSettings(rank=2, classes="always")}
    with pytest.raises(SettingsError, match="method 'self_tuned' with classes: always weighs rows in the model's own"):
        make("a", **given, peft_config=config, compute_loss_func=halved).train()


def test_the_settings_are_those_of_the_adapter_for_every_method_with_values(make: Making) -> None:
    settings = make("a", variant="learned_decay_bilora").variant_settings
    assert (settings.rank, settings.alpha, settings.formulation, settings.normalized) == (4, 8, "softmax", False)


class Momentum(BilevelTrainer):
    """A user's own optimizer, over all that the model has, as many make it."""

    def create_optimizer(self, model: Any = None) -> Any:
        head = [value for name, value in self.model.named_parameters() if "classifier" in name]
        rest = [value for name, value in self.model.named_parameters() if "classifier" not in name]
        self.optimizer = torch.optim.SGD([{"params": head, "lr": 0.5}, {"params": rest}], lr=0.1, momentum=0.9)
        return self.optimizer


class Theirs(BilevelTrainer):
    """Trainer's own method, with another rate."""

    def create_optimizer(self, model: Any = None) -> Any:
        optimizer = super().create_optimizer(model)
        for group in optimizer.param_groups:
            group["lr"] = 0.025
        return optimizer


def test_an_optimizer_of_the_users_own_is_that_of_the_lower_level(make: Making) -> None:
    args = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    whole = make("whole", kind=Momentum, args=args)
    whole.train()
    assert isinstance(whole.optimizer, torch.optim.SGD)
    assert whole.get_learning_rates() == [0.5, 0.1]
    with pytest.raises(InterruptedRun):
        make("part", kind=Momentum, args=args, callbacks=[Stopping(4)]).train()
    again = make("part", kind=Momentum, args=args)
    again.train(resume_from_checkpoint=True)
    assert_equal(whole.model, again.model)
    # AdamW of transformers, made over the lower level alone, is that of a trainer with that rate.
    theirs, same = make("a", kind=Theirs, args=args), make("b", args={**args, "learning_rate": 0.025})
    theirs.train(), same.train()
    for (name, left), (_, right) in zip(theirs.model.named_parameters(), same.model.named_parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6), name
        assert left.requires_grad == right.requires_grad, name
    with pytest.raises(SettingsError, match="overrides create_optimizer, and method 'self_tuned' learns the weight"):
        make("c", kind=Momentum, variant="self_tuned")


def test_what_two_levels_do_not_call_is_refused_by_name(make: Making) -> None:
    own = type("Own", (BilevelTrainer,), {"create_scheduler": lambda self, *given: None})
    late = type("Late", (TrainerCallback,), {"on_optimizer_step": lambda self, args, state, control, **given: None})
    with pytest.raises(SettingsError, match="Own overrides create_scheduler, which is not called"):
        make("a", kind=own)
    with pytest.raises(SettingsError, match="takes no optimizers: each level"):
        make("b", optimizers=(torch.optim.SGD([torch.zeros(1)]), None))
    with pytest.raises(TypeError, match="unexpected argument 'train_data'"):
        make("c", train_data=[])
    with pytest.raises(SettingsError, match="callback Late has on_optimizer_step"):
        make("d", callbacks=[late()]).train()
    with pytest.raises(SettingsError, match="no hyperparameter_search; bilora compare"):
        make("e").hyperparameter_search()


def test_it_goes_the_road_of_fit(make: Making, tokenizer: Any, rows: Dataset) -> None:
    trainer, other = make(), make("other")
    result = trainer.train()
    encoded = [{**tokenizer(row["text"], truncation=True, max_length=32), "labels": row["label"]} for row in rows]
    settings = other.args.fit_settings(rows=80, splits=True)
    adapter = trainer.variant_settings
    assert adapter == BiloraSettings(rank=4, alpha=8, formulation=adapter.formulation, normalized=adapter.normalized)
    common: Any = {
        "collate": Collator(tokenizer),
        "variant": "bilora",
        "variant_settings": adapter,
        "settings": settings,
    }
    fit(other.model, encoded[:80], **common)
    assert result.global_step == 6
    assert_equal(trainer.model, other.model)
    # D2 as rows of their own.
    divided, divided_too = make("a", upper_dataset=rows.select(range(80, 100))), make("b")
    divided.train()
    fit(divided_too.model, encoded[:80], upper_rows=encoded[80:100], **common)
    assert_equal(divided.model, divided_too.model)


def test_the_best_evaluation_is_kept_and_told(make: Making) -> None:
    trainer = make(args=BEST)
    trainer.train()
    losses = evaluations(trainer)
    assert len(losses) == 6
    assert min(losses) < losses[-1]  # else the last would be the best, and keeping it no test
    state = transformers.TrainerState.load_from_json(str(make.folder / "out" / "trainer_state.json"))
    assert (state.best_metric, state.best_global_step) == (min(losses), 1 + losses.index(min(losses)))
    assert state.log_history == trainer.log_history
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-6)


OFTEN = {"save_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "logging_steps": 4}
BY_EPOCHS = {"save_steps": 8, "eval_strategy": "epoch", "max_steps": 10, "load_best_model_at_end": True}


@pytest.mark.parametrize(
    ("checkpoint", "stopped", "args"),
    [
        (None, 4, OFTEN),
        ("checkpoint-2", 4, OFTEN),
        ("checkpoint-8", 9, BY_EPOCHS),  # written before the end of its epoch, with its evaluation to come
    ],
)
def test_a_training_goes_on_to_the_same_numbers(checkpoint: str | None, stopped: int, args: Any, make: Making) -> None:
    args = {"save_strategy": "steps", **args}
    whole = make("whole", args=args)
    result = whole.train()
    with pytest.raises(InterruptedRun):
        make("part", args=args, callbacks=[Stopping(stopped)]).train()
    again = make("part", args=args)
    with pytest.raises(SettingsError, match="go on from its checkpoints"):
        again.train()
    resumed = again.train(resume_from_checkpoint=True if checkpoint is None else str(make.folder / "part" / checkpoint))
    assert (resumed.global_step, resumed.training_loss) == (result.global_step, result.training_loss)
    # A clock is not to the bit.
    clocks = ("_runtime", "_per_second", "_time")
    numbers, expected = (
        [{name: value for name, value in entry.items() if not name.endswith(clocks)} for entry in trainer.log_history]
        for trainer in (again, whole)
    )
    assert numbers == expected
    assert (make.folder / "part" / "metrics.jsonl").read_bytes() == (make.folder / "whole/metrics.jsonl").read_bytes()
    assert_equal(whole.model, again.model)


class Stopping(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, engine: Any, record: Any) -> None:
        if record.step == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_newest_checkpoints_are_kept_and_a_missing_one_is_told(make: Making) -> None:
    make(args={"save_strategy": "epoch", "save_total_limit": 1, "max_steps": 16}).train()
    # An epoch of D1 is 8 steps.
    assert [step for step, _ in checkpoints(make.folder / "out")] == [16]
    with pytest.raises(CheckpointError, match="holds no checkpoint; set save_strategy"):
        make("none").train(resume_from_checkpoint=True)


def test_a_single_level_method_trains_on_all_rows(make: Making) -> None:
    args = {"max_steps": -1, "num_train_epochs": 2}
    single = make(args=args, peft_config=LoraConfig(task_type="SEQ_CLS", r=4), variant="lora")
    assert single.train().global_step == 20
    assert make("two", args=args).train().global_step == 16  # of D1, with 64 of the 80 rows


def test_evaluation_is_of_the_model_as_it_is(make: Making, tokenizer: Any, rows: Dataset) -> None:
    """Against the model alone, one row at a time."""
    trainer = make(args={"per_device_eval_batch_size": 7})
    losses, right = [], 0
    trainer.model.eval()
    for row in rows.select(range(80, 120)):
        tokens = tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            output = trainer.model(**tokens, labels=torch.tensor([row["label"]]))
        losses.append(float(output.loss))
        right += int(output.logits.argmax()) == row["label"]
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert metrics["eval_accuracy"] == right / 40
    assert metrics["eval_samples_per_second"] > 0
    # Several sets by name, and bfloat16.
    both = {"a": rows.select(range(80, 90)), "b": rows.select(range(90, 120))}
    several = make("b", eval_dataset=both, args={"bf16": True}).evaluate()
    mean = (several["eval_a_loss"] * 10 + several["eval_b_loss"] * 30) / 40
    assert mean == pytest.approx(np.mean(losses), abs=2e-2)
    assert mean != pytest.approx(np.mean(losses), abs=1e-7)


def test_predictions_need_no_labels_and_keep_the_order(make: Making, rows: Dataset) -> None:
    trainer = make(args={"train_sampling_strategy": "group_by_length"})
    trainer.train()
    labelled = rows.select(range(20))
    with_labels, without = trainer.predict(labelled), trainer.predict(labelled.remove_columns("label"))
    assert without.label_ids is None
    assert not {"test_loss", "test_accuracy"} & set(without.metrics)
    assert np.allclose(without.predictions, with_labels.predictions, atol=1e-6)
    assert with_labels.label_ids.tolist() == labelled["label"][:]
    assert {"test_loss", "test_accuracy"} <= set(with_labels.metrics)


@pytest.mark.parametrize("kind", ["tokens", "causal"])
def test_the_loss_of_an_evaluation_does_not_depend_on_the_batches(kind: str, make: Making) -> None:
    """Rows of different lengths: a mean of batch means would weigh the tokens by their batch."""
    tokens = [row["input_ids"][: 3 + index % 9] for index, row in enumerate(make.rows.select(range(20)))]
    data = [{"input_ids": ids, "labels": [token % 2 for token in ids]} for ids in tokens]
    data[0]["labels"][:2] = [-100, -100]
    losses = []
    for size in (1, 4, 16):
        set_seed(0)
        if kind == "tokens":
            model = transformers.BertForTokenClassification.from_pretrained(make.model, num_labels=2)
        else:
            sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            small = transformers.LlamaConfig(vocab_size=len(make.tokenizer), initializer_range=0.5, **sizes)
            model = transformers.LlamaForCausalLM(small)
        config = BiloraConfig(task_type="TOKEN_CLS" if kind == "tokens" else "CAUSAL_LM", r=2, formulation="softmax")
        options = {"train_dataset": data, "eval_dataset": data, "compute_metrics": None, "peft_config": config}
        options |= {"args": {"max_steps": 2, "upper_train_batch_size": 4, "per_device_eval_batch_size": size}}
        options |= {"model": model, "data_collator": transformers.DataCollatorForTokenClassification(make.tokenizer)}
        trainer = make(str(size), **options)
        losses.append(trainer.evaluate()["eval_loss"])
    model.eval()
    shift = int(kind == "causal")
    logits, labels = [], []
    for row in data:
        with torch.no_grad():
            logits += model(input_ids=torch.tensor([row["input_ids"]])).logits[0, : len(row["labels"]) - shift]
        labels += row["labels"][shift:]
    expected = float(functional.cross_entropy(torch.stack(logits).double(), torch.tensor(labels)))
    assert losses == pytest.approx([expected] * 3, rel=1e-5)
    assert trainer.train().global_step == 2
    assert trainer.evaluate()["eval_loss"] != losses[-1]


def test_what_is_saved_is_the_model(make: Making, tokenizer: Any) -> None:
    trainer = make()
    trainer.train()
    trainer.save_model()
    loaded = PeftModel.from_pretrained(fresh(make.model), str(make.folder / "out"))
    again = make(model=loaded, peft_config=None)
    assert again.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]
    assert transformers.AutoTokenizer.from_pretrained(make.folder / "out").vocab_size == tokenizer.vocab_size
    with pytest.raises(SettingsError, match="holds an earlier training"):
        trainer.train()


def test_what_is_saved_is_what_a_run_saves(review_file: Path, make: Making, rows: Dataset) -> None:
    """With the task, the verbs of the command take the folder."""
    task = Task("reviews", ("text",), ("negative", "positive"))
    trainer = make(args=BEST, task=task, max_length=32)
    trainer.train()
    folder = make.folder / "saved"
    trainer.save_model(str(folder))
    losses = evaluations(trainer)
    assert f"{min(losses):.4f}" != f"{losses[-1]:.4f}"  # else the last would do
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| train | 80 |\n| eval | 40 |" in card
    assert f"| loss | {min(losses):.4f} |" in card
    assert "num_labels=2" in card
    assert read_task(folder) == (task, 32)
    assert PREDICT.run([str(folder), "--file", str(review_file), "--output", str(make.folder / "out.jsonl")]) == 0
    answers = read_lines(make.folder / "out.jsonl")
    classes = trainer.predict(rows).predictions.argmax(-1)
    assert [row["prediction"] for row in answers] == [task.label_names[index] for index in classes]
    with pytest.raises(SettingsError, match="task 'reviews' has 3 outputs, and the model has 2"):
        make("a", task=Task("reviews", ("text",), ("a", "b", "c")))


def test_the_adapter_and_its_card_are_pushed(make: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> Any:
            return type("Repository", (), {"repo_id": f"me/{name}"})

        def upload_folder(self, **options: Any) -> None:
            calls.append(options)

    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    trainer = make()
    trainer.train()
    trainer.push_to_hub(tags="mine", language="en", dataset="reviews", dataset_tags="films", dataset_args="short")
    card = (make.folder / "out" / "README.md").read_text(encoding="utf-8")
    assert all(words in card for words in ("language: en", "- mine", "- films", "# own data: bilora adapter"))
    assert "as named by the author: reviews (short)." in card
    assert [(call["repo_id"], call["folder_path"]) for call in calls] == [("me/out", str(make.folder / "out"))]
    (make.folder / "out" / "diverged.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"diverged.json holds training rows, which push_to_hub would upload"):
        trainer.push_to_hub()
    assert len(calls) == 1
    make("asked", args={"push_to_hub": True, "hub_model_id": "mine"}).save_model()
    assert [call["repo_id"] for call in calls] == ["me/out", "me/mine"]


def test_an_adapter_of_another_name_has_its_card_beside_it(make: Making) -> None:
    model = get_peft_model(fresh(make.model), bilora_config(), adapter_name="mine")
    make(model=model, peft_config=None, train_dataset=None, eval_dataset=None).save_model()
    card = (make.folder / "out" / "mine" / "README.md").read_text(encoding="utf-8")
    assert all(words in card for words in ("None were taken", "# own data: bilora adapter"))
    assert not (make.folder / "out" / "mine" / "bilora_task.json").exists()


def test_what_is_missing_is_told(make: Making, rows: Dataset) -> None:
    with pytest.raises(SettingsError, match="without an adapter, and its class does not say"):
        make("a", peft_config=None, model=torch.nn.Sequential(torch.nn.Linear(1, 1)))
    with pytest.raises(DataError, match=r"train_dataset\[0\] has the columns text, label; .* tokenise"):
        make("b", train_dataset=rows.select_columns(["text", "label"])).train()
    empty = make("c", train_dataset=None, eval_dataset=None)
    with pytest.raises(SettingsError, match="give 'train_dataset'"):
        empty.train()
    with pytest.raises(ValueError, match="requires an eval_dataset"):
        empty.evaluate()


def test_labels_are_those_that_the_model_can_learn(make: Making, rows: Dataset) -> None:
    texts = [{**row, "label": str(row["label"])} for row in rows]
    with pytest.raises(DataError, match=r"train_dataset\[0\] has the label '[01]', a text; map"):
        make("a", train_dataset=texts).train()
    beyond = [{**row, "label": index % 3} for index, row in enumerate(rows)]
    with pytest.raises(DataError, match=r"train_dataset\[2\] has the label 2, and the model has 2 outputs, for the"):
        make("b", train_dataset=beyond).train()
    with pytest.raises(DataError, match=r"eval_dataset\[2\] has the label 2, and the model has 2 outputs, for the"):
        make("e", eval_dataset=beyond).evaluate()
    for form, told in ((float, "the label 1.0; a class is a whole number"), (lambda x: [x, x], "list of 2 fractions")):
        formed = [{**row, "label": form(1)} for row in rows]
        with pytest.raises(DataError, match=rf"train_dataset\[0\] has .*{told}"):
            make("f", train_dataset=formed).train()
    # A list of numbers per row is multi-label; the columns that torch formats are its numbers.
    several = rows.map(lambda row: {"label": [float(row["label"]), 1.0, 0.0]}).with_format("torch")
    model = fresh(make.model, num_labels=3, problem_type="multi_label_classification")
    assert make("c", model=model, train_dataset=several, eval_dataset=None).train().global_step == 6


@pytest.mark.parametrize(
    "kind", [float, np.float32, np.int64, np.array, torch.tensor], ids=["float", "float32", "int64", "array", "tensor"]
)
def test_a_metric_may_be_a_number_of_any_library(kind: Any, make: Making) -> None:
    trainer = make("a", args={**BEST, "metric_for_best_model": "value"}, compute_metrics=lambda _: {"value": kind(3)})
    trainer.train()
    assert trainer.state.best_metric == 3.0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"load_best_model_at_end": True}, "set steps or epoch"),
        ({"bf16": True, "fp16": True}, "At most one of fp16 and bf16"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"save_steps": 0}, "save_steps is 0"),
        ({"save_total_limit": 0}, "save_total_limit is 0"),
        ({"save_strategy": "never"}, "never is not a valid SaveStrategy"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"lr_scheduler_type": "polynomial"}, "schedule is 'polynomial', allowed: constant, linear, cosine"),
        ({"report_to": "tensorbord"}, r"Did you mean 'tensorboard'\?"),
        ({"hypergradient": "neuman"}, r"Did you mean 'neumann'\?"),
        ({"train_sampling_strategy": "sequential"}, "allowed: random, group_by_length"),
        ({"hub_strategy": "every_save"}, "hub_strategy is 'every_save'"),
    ],
)
def test_bad_arguments_are_told_when_they_are_made(args: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BilevelTrainingArguments("out", **{"use_cpu": True, **args})


def test_what_transformers_has_filled_in_is_no_argument_of_the_users() -> None:
    args = BilevelTrainingArguments("out", use_cpu=True)
    assert dataclasses.replace(args, seed=1).seed == 1


def test_the_defaults_are_those_of_fit() -> None:
    theirs = FitSettings(device="cpu", steps=3)
    ours = BilevelTrainingArguments("out", use_cpu=True, num_train_epochs=3)
    assert ours.fit_settings(rows=theirs.lower.batch_size, splits=False) == theirs
    # And from a command line, where a mapping is JSON.
    words = ["--hypergradient", '{"name": "neumann"}', "--warmup_steps", "3", "--max_steps", "10", "--use_cpu"]
    (parsed,) = transformers.HfArgumentParser(BilevelTrainingArguments).parse_args_into_dataclasses(words)
    settings = parsed.fit_settings(rows=100, splits=True)
    assert (settings.hypergradient, settings.lower.warmup) == ({"name": "neumann"}, pytest.approx(0.25))


@pytest.mark.parametrize(("warmup_steps", "share"), [(0.5, 0.5), (1, 0.05), (3, 0.25)])
def test_a_warm_up_below_one_is_a_share_of_the_steps(warmup_steps: float, share: float) -> None:
    args = BilevelTrainingArguments("out", use_cpu=True, warmup_steps=warmup_steps, max_steps=10)
    assert args.fit_settings(rows=100, splits=True).lower.warmup == pytest.approx(share)


@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_names_with_and_without_the_prefix_are_one_metric(name: str) -> None:
    args = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": f"eval_{name}"}
    assert BilevelTrainingArguments("out", **args).monitor == Monitor(name, greater_is_better=name == "accuracy")
