"""Training on all rows of a file: D2 is watched in place of validation rows, and is called by its name everywhere."""

from pathlib import Path
from typing import Any

import pytest

from bilora.artifacts.model_card import CardFacts, model_card
from bilora.commands.train_config import TrainConfig
from bilora.engines.training.split_loaders import SplitLoaders
from bilora.errors import SettingsError
from bilora.files.formats import dump_json, load_json, read_lines, read_yaml
from bilora.problems.catalog import VARIANTS
from bilora.report.report import ReportConfig, write_report
from bilora.runs.config import RunConfig
from bilora.runs.plan import load_run_rows, plan_run
from bilora.tasks.catalog import TASKS


def train_config(path: Path, *, method: str = "bilora", **settings: Any) -> TrainConfig:
    return TrainConfig(train_file=str(path), text_columns=["text"], method=method, **settings)


def test_d2_of_a_run_is_what_the_upper_level_trained_on(command_run: Any) -> None:
    [split] = load_json(command_run.folder / "split.json")
    watched = [row["id"] for row in read_lines(command_run.folder / "predictions-d2.jsonl")]
    assert sorted(watched) == sorted(split["upper"])
    assert len(split["lower"]) + len(watched) == 120


def test_predictions_say_of_which_row_they_are_and_how_sure(command_run: Any, review_file: Path) -> None:
    given = read_lines(review_file)
    for row in read_lines(command_run.folder / "predictions-d2.jsonl"):
        assert {name: row[name] for name in ("text", "label")} == given[row["line"] - 1]
        right = row["label"] == row["prediction"]
        # Of two classes, what is not given to the one is given to the other.
        sure = row["confidence"] if right else 1.0 - row["confidence"]
        assert 0.5 <= row["confidence"] <= 1.0 and row["label_confidence"] == pytest.approx(sure, abs=2e-6)
    assert load_json(command_run.folder / "all_results.json")["sources"] == {"d2": str(review_file)}


def test_no_file_calls_d2_a_validation(command_run: Any, tmp_path: Path) -> None:
    results = load_json(command_run.folder / "all_results.json")
    assert (results["scored_on"], results["validation_loss"]) == ("d2", None)
    lines = read_lines(command_run.folder / "metrics.jsonl")
    assert not any("validation" in line for line in lines)
    assert sum("d2" in line for line in lines) > 1
    assert "no row is held out" in command_run.out
    assert "reviews: D2, the part of the training rows that the upper level was trained on too" in command_run.out
    page = write_report(ReportConfig([str(command_run.folder)], output=str(tmp_path / "report.html")))
    # The settings below the figures have names of their own, such as validate_every.
    shown = page.read_text(encoding="utf-8").split("<h2>Runs</h2>")[0].lower()
    assert "loss on all of d2" in shown
    # An option that would hold rows out is named.
    assert "validation" not in shown.replace("validations included", "").replace("--validation-share", "")


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_methods_whose_lower_level_sees_d2_hold_rows_out(method: str, review_file: Path) -> None:
    config = train_config(review_file, method=method)
    alone = {"alternating", "bilora"}
    assert config.watches_upper is (method in alone)
    run = config.run_config()
    assert (run.validation_share, run.refresh) == ((0.0, 0) if method in alone else (0.1, 1))


def test_retraining_a_moving_split_or_validation_rows_leave_no_d2(review_file: Path) -> None:
    assert train_config(review_file, ending="prune").watches_upper
    retrained, moving = train_config(review_file, ending="retrain"), train_config(review_file, refresh=2)
    given = train_config(review_file, validation_file=str(review_file))
    shared = train_config(review_file, validation_share=0.25)
    assert not any(config.watches_upper for config in (retrained, moving, given, shared, TrainConfig(task="mrpc")))
    assert {config.run_config().refresh for config in (given, shared, TrainConfig(task="mrpc"))} == {1}
    assert (moving.run_config().validation_share, moving.run_config().refresh) == (0.1, 2)
    assert sorted(load_run_rows(moving).validation) == ["validation"]
    assert len(load_run_rows(shared).validation["validation"]) == 30


def test_tagged_rows_are_divided_as_in_training(tmp_path: Path) -> None:
    path = tmp_path / "tags.jsonl"
    path.write_text(dump_json({"words": ["a", "b"], "tags": ["O", "B-x"]}) * 100, encoding="utf-8")
    words: dict[str, Any] = {"text_columns": ["words"], "label_column": "tags", "method": "bilora"}
    config = TrainConfig(train_file=str(path), **words).run_config(steps=8)
    plan = plan_run(config, load_run_rows(config))
    encoded = [{"input_ids": [1, 2], "labels": [0, 1]} for _ in plan.train]
    [split] = SplitLoaders(encoded, config, collate=list).splits
    assert plan.rows.validation["d2"].ids == split.upper
    assert plan.split == split


@pytest.mark.parametrize("change", [{"method": "lora"}, {"refresh": 1}, {"ending": "retrain"}])
def test_d2_that_cannot_be_watched_is_refused(change: dict[str, Any], review_file: Path) -> None:
    settings: dict[str, Any] = {"text_columns": ["text"], "validation_share": 0.0, "method": "bilora", **change}
    config = RunConfig(train_file=str(review_file), **settings)
    with pytest.raises(SettingsError, match="that takes refresh 0 and a method whose upper level alone"):
        plan_run(config, load_run_rows(config))


@pytest.mark.parametrize("share", [-0.5, 1.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match="at least 0 and below 1, or null"):
        TrainConfig(validation_share=share)


def test_a_card_of_validation_rows_says_so() -> None:
    facts = CardFacts("mrpc", TASKS["mrpc"].hub_names, "org/model", "lora", {"train": 9}, {"f1": 0.5}, 0, {}, True)
    assert "On the first validation set, one run with seed 0." in model_card(facts)


def test_the_settings_of_a_run_ask_for_the_same_d2_again(command_run: Any) -> None:
    settings = read_yaml(command_run.folder / "config.yaml")
    assert (settings["validation_share"], settings["refresh"]) == (0.0, 0)
    assert RunConfig(**{name: settings[name] for name in ("method", "seed", "refresh")}).leaves_upper
