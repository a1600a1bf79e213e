"""Options by the names that people type, and the help that shows the common ones."""

import re
from typing import Any

import pytest

from bilora.commands.check_labels import CHECK_LABELS
from bilora.commands.compare import COMPARE
from bilora.commands.doctor import DOCTOR
from bilora.commands.evaluate import EVALUATE
from bilora.commands.init import INIT
from bilora.commands.predict import PREDICT
from bilora.commands.train import TRAIN
from bilora.commands.train_config import TrainConfig
from bilora.commands.usual_names import COMMON, RENAMED, common_help
from bilora.errors import SettingsError
from bilora.runs.config_hash import config_hash

ROWS = ["--train-file", "rows.csv"]
TYPED = [
    ("--rank 4", "rank", 4),
    ("--lora-r 4", "rank", 4),
    ("--alpha 8", "alpha", 8.0),
    ("--lora_alpha=8", "alpha", 8.0),
    ("--dropout 0.1", "dropout", 0.1),
    ("--target-modules query value", "target_modules", ["query", "value"]),
    ("--target-modules all-linear", "target_modules", "all-linear"),
    ("--epochs 1", "epochs", 1.0),
    ("--num-train-epochs 1", "epochs", 1.0),
    ("--learning-rate 1e-4", "lower.learning_rate", 1e-4),
    ("--lr=1e-4", "lower.learning_rate", 1e-4),
    ("--batch-size 4", "lower.batch_size", 4),
    ("--per_device_train_batch_size 4", "lower.batch_size", 4),
    ("--gradient-accumulation-steps 2", "lower.accumulation", 2),
    ("--weight-decay 0.1", "lower.weight_decay", 0.1),
    ("--max-grad-norm 0.5", "lower.gradient_clipping", 0.5),
    ("--warmup-ratio 0.1", "lower.warmup", 0.1),
    ("--lr-scheduler-type cosine", "lower.schedule", "cosine"),
    ("--max-length 64", "max_length", 64),
    ("--max_seq_length 64", "max_length", 64),
    ("--seed 3", "seed", 3),
    ("--seeds 3", "seed", 3),
    ("--steps 50", "steps", 50),
    ("--max-steps 50", "steps", 50),
    ("--output-dir runs/x", "output", "runs/x"),
    ("--model-name-or-path here", "model", "here"),
    ("--bf16", "precision", "bf16"),
    ("--bf16 true", "precision", "bf16"),
    ("--fp16", "precision", "fp16"),
    ("--bf16 false", "precision", "fp32"),
    ("--eval-steps 10", "validate_every", 10),
    ("--group-column customer", "group_column", "customer"),
    ("--model here --revision v1", "revision", "v1"),
    ("--text-column-name said", "text_columns", ["said"]),
    ("--eval-file more.csv", "validation_file", "more.csv"),
    ("--save-steps 10", "save_every", 10),
    ("--logging-steps 10", "log_every", 10),
    ("--push-to-hub true --hub-model-id me/it", "push_to_hub", True),
]


def value_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def test_a_switch_that_is_neither_on_nor_off_is_refused() -> None:
    with pytest.raises(SettingsError, match="--bf16 is 'flase', allowed: true, yes, 1, false, no, 0"):
        TRAIN.parse([*ROWS, "--bf16=flase"])


@pytest.mark.parametrize(("typed", "name", "value"), TYPED, ids=[typed for typed, _, _ in TYPED])
@pytest.mark.parametrize("verb", [TRAIN, DOCTOR], ids=["train", "doctor"])
def test_what_people_type_is_understood(verb: Any, typed: str, name: str, value: Any) -> None:
    assert value_of(verb.parse([*ROWS, *typed.split()]), name) == value


@pytest.mark.parametrize(
    ("verb", "words", "setting"),
    [
        *((verb, [], "train_file") for verb in (TRAIN, DOCTOR, INIT)),
        (COMPARE, [], "run.train_file"),
        (EVALUATE, ["runs/x"], "data"),
        (PREDICT, ["runs/x"], "file"),
        (CHECK_LABELS, [], "file"),
    ],
    ids=lambda part: getattr(part, "name", ""),
)
@pytest.mark.parametrize("option", ["--train-file", "--data", "--file", "--dataset"])
def test_every_verb_takes_the_file_by_the_names_of_the_others(
    verb: Any, words: list[str], setting: str, option: str
) -> None:
    assert value_of(verb.parse([*words, option, "rows.csv"]), setting) == "rows.csv"


@pytest.mark.parametrize(
    "word",
    ["per-device-eval-batch-size", "num-warmup-steps", "local-rank", "test-split", "optim", "deepspeed", "data-seed"]
    + ["eval-accumulation-steps", "hub-revision", "length-column-name", "optim-target-modules"]
    + ["load-in-4bit", "use-cpu", "save-strategy", "template", "adapter", "gradient-checkpointing"],
)
def test_a_word_of_another_meaning_is_brought_near_to_none(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        TRAIN.parse([*ROWS, f"--{word}", "1"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "Did you mean" not in line


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [("--learning-rate 1e-4", "lower.learning_rate", 1e-4), ("--rank 4", "rank", 4), ("--bf16", "precision", "bf16")],
)
def test_a_comparison_hands_them_to_its_runs(typed: str, name: str, value: Any) -> None:
    assert value_of(COMPARE.parse(["--task", "rotten_tomatoes", *typed.split()]).run, name) == value


def test_the_rank_reaches_every_method_and_one_of_its_own_goes_before_it() -> None:
    config = TrainConfig(train_file="rows.csv", rank=4, method_settings={"bilora": {"rank": 2}})
    assert [config.settings_of(method).rank for method in ("lora", "bilora", "self_tuned")] == [4, 2, 4]


def test_a_rank_is_hashed_by_what_it_does() -> None:
    by_name = TrainConfig(task="sst2", steps=5, method="lora", rank=4)
    by_section = TrainConfig(task="sst2", steps=5, method="lora", method_settings={"lora": {"rank": 4}})
    plain = TrainConfig(task="sst2", steps=5, method="lora")
    hashes = [config_hash(config.run_config()) for config in (by_name, by_section, plain)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("epochs", "rows", "steps"), [(1.0, 1000, 50), (1.0, 20, 1), (None, 20, 40), (None, 1000, 500)]
)
def test_an_epoch_is_an_epoch(epochs: float | None, rows: int, steps: int) -> None:
    assert TrainConfig(train_file="rows.csv", epochs=epochs).steps_for(rows) == steps


def test_a_wrong_word_is_brought_near_to_a_usual_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        TRAIN.parse([*ROWS, "--learning-rat", "1"])
    assert "Did you mean '--learning_rate'?" in capsys.readouterr().err


def test_without_rows_there_is_one_line_of_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert TRAIN.run([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is nothing to train on: give --train-file rows.csv" in line


def test_the_common_help_names_options_that_there_are() -> None:
    text = common_help()
    assert all(len(line) <= 80 for line in text.splitlines())
    options = [re.match(r"--([\w-]+)", option) for group in COMMON.values() for option in group]
    names = [option[1].replace("-", "_") for option in options if option]
    assert 20 <= len(names) <= 25
    known = {*RENAMED, "bf16", *TrainConfig.__dataclass_fields__}
    assert set(names) <= known
    assert all(f"--{name.replace('_', '-')}" in text for name in names)
