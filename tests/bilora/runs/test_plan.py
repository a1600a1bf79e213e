"""The plan of a run: its rows, its first split, and what is refused before a model is read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bilora.data.sets import TaskRows
from bilora.engines.settings import LevelSettings
from bilora.errors import DataError, SettingsError
from bilora.files.formats import write_json, write_yaml
from bilora.runs.config import RunConfig
from bilora.runs.plan import flipped_labels, load_run_rows, plan_run
from bilora.runs.run import prepare


@pytest.fixture(scope="module")
def reviews() -> TaskRows:
    rows = load_run_rows(RunConfig())
    validation = {"validation": rows.validation["validation"].select(range(20))}
    return TaskRows(rows.task, rows.train.select(range(200)), validation)


def test_a_file_in_place_of_a_task(tmp_path: Path) -> None:
    path = tmp_path / "mail.tsv"
    path.write_text("body\tkind\n" + "win\tspam\nsee you\tham\n" * 10, encoding="utf-8")
    config = RunConfig(train_file=str(path), text_columns=["body"], label_column="kind", validation_share=0.2)
    rows = load_run_rows(config)
    assert (rows.task.name, len(rows.train), len(rows.validation["validation"])) == ("mail", 16, 4)


def test_a_plan_divides_the_rows_that_are_drawn_of_the_embedded_task(reviews: TaskRows) -> None:
    plan = plan_run(RunConfig(method="bilora", train_rows=100), reviews)
    assert plan.split is not None
    assert (len(plan.split.lower), len(plan.split.upper)) == (80, 20)
    assert (plan.task.name, [stage.name for stage in plan.stages]) == ("rotten_tomatoes", ["bilevel"])


def test_the_default_needs_no_whole_batch_of_d2(reviews: TaskRows) -> None:
    plan = plan_run(RunConfig(train_rows=70), reviews)
    assert plan.split is not None
    assert len(plan.split.upper) == 14 < plan.settings.upper.batch_size
    assert [stage.name for stage in plan.stages] == ["bilevel", "retrain"]


def test_prepares_what_all_runs_share(reviews: TaskRows) -> None:
    prepared = prepare([plan_run(RunConfig(max_length=16), reviews)])
    encoded = prepared.validation["validation"].encoded
    assert len(encoded) == 20
    assert max(len(row["input_ids"]) for row in encoded) == 16


def test_labels_are_flipped_for_training_alone_and_a_line_says_how_many(reviews: TaskRows) -> None:
    plan, clean = (plan_run(RunConfig(train_rows=100, flip_labels=share, seed=1), reviews) for share in (0.2, 0.0))
    assert plan.train.ids == clean.train.ids
    flips = sum(new != old for new, old in zip(plan.train.labels, clean.train.labels, strict=True))
    assert 8 <= flips <= 32
    assert plan.rows is reviews
    (notice,) = flipped_labels([clean, plan, plan])
    assert notice == f"{flips} of 100 training labels are wrong on purpose: flip_labels is 0.2, seed 1"
    assert notice in prepare([plan]).notices


def test_a_line_says_that_a_cpu_is_slow_in_bf16(reviews: TaskRows, monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native}, raising=False)  # noqa: B023
        plan = plan_run(RunConfig(train_rows=100, precision="bf16", device="cpu"), reviews)
        assert any("no instructions for bf16" in notice for notice in prepare([plan]).notices) is not native


@pytest.mark.parametrize(
    "method", ["learned_noise", "learned_sources", "learned_classes", "learned_rows", "learned_loss"]
)
def test_a_loss_of_ones_own_takes_rows_of_one_class_each(method: str, tmp_path: Path) -> None:
    """Neither numbers nor tags nor lists of labels, and no weights of classes."""
    numbers, tags, lists = (tmp_path / name for name in ("numbers.csv", "tags.jsonl", "lists.jsonl"))
    numbers.write_text("text,label\n" + "".join(f"text {k},{k / 7:.3f}\n" for k in range(80)), encoding="utf-8")
    tags.write_text('{"text": ["a", "b"], "label": ["O", "B-x"]}\n' * 80, encoding="utf-8")
    lists.write_text("".join(f'{{"text": "t {k}", "label": ["x", "y"]}}\n' for k in range(80)), encoding="utf-8")
    for path in (numbers, tags, lists):
        config = RunConfig(train_file=str(path), text_columns=["text"], label_column="label", method=method)
        with pytest.raises(SettingsError, match=f"^method '{method}' needs one class per row; it trains no regression"):
            plan_run(config, load_run_rows(config))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"method": "learned_noise", "class_weights": "auto"},
            SettingsError,
            "class_weights is 'auto', and method 'learned_noise' computes a loss of its own, without them",
        ),
        (
            {"method": "learned_loss", "hypergradient": "first_order"},
            SettingsError,
            "hypergradient is 'first_order', by which method 'learned_loss' would learn nothing",
        ),
        ({"train_rows": 201}, DataError, "201 rows are asked for"),
        ({"method": "bilora", "train_rows": 70}, DataError, "the upper part has 14 rows, fewer than a batch of 16"),
        ({"split_ratio": 0.05}, DataError, "the lower part has 10 rows, fewer than a batch of 16"),
        (
            *({"method": "bilora", "upper": LevelSettings(batch_size=41)}, DataError),
            "the upper part has 40 rows, fewer than a batch of 41",
        ),
        ({"method": "lora", "train_rows": 15}, DataError, "the lower part has 15 rows, fewer than a batch of 16"),
        ({"device": "cpu:x"}, SettingsError, "device is 'cpu:x'"),
        ({"max_length": 513}, DataError, "the bert model has 512 positions"),
        ({"model": "org/model"}, DataError, "no model can be loaded"),
    ],
)
def test_refuses_before_a_model_is_read(reviews: TaskRows, settings: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        prepare([plan_run(RunConfig(**settings), reviews)])


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_a_single_level_method_needs_room_for_one_batch_only(reviews: TaskRows, method: str) -> None:
    assert plan_run(RunConfig(method=method, train_rows=16), reviews).split is None


def test_settings_are_written_in_their_order_and_files_end_with_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_yaml(path, {"task": "mrpc", "lower": {"learning_rate": 1e-05}, "a": None})
    assert path.read_text(encoding="utf-8") == "task: mrpc\nlower:\n  learning_rate: 1.0e-05\na: null\n"
    write_json(path, {})
    assert path.read_text(encoding="utf-8") == "{}\n"


def test_columns_and_files_that_a_config_leaves_open_are_found(tmp_path: Path) -> None:
    table = "sentence,category\n" + "".join(f"a text of number {n},{('x', 'y')[n % 2]}\n" for n in range(30))
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text(table, encoding="utf-8")
    rows = load_run_rows(RunConfig(train_file=str(tmp_path)))
    assert (rows.train.source, rows.validation["validation"].source) == (
        str(tmp_path / "train.csv"), str(tmp_path / "dev.csv")
    )  # fmt: skip
    assert rows.task.columns.text_columns == ("sentence",)  # type: ignore[attr-defined]  # of a BaseTask
    assert rows.notices[1:3] == (
        "the label is in 'category'; give --label-column for another",
        "the text is in 'sentence'; give --text-columns for others",
    )
