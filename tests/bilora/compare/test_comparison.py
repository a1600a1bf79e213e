"""A comparison from end to end: fair trials, runs that are never made twice, and its files."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pandas
import pytest
import yaml
from small_comparisons import small

from bilora.commands.command_line import parse_config
from bilora.compare import jobs as comparison_jobs
from bilora.compare.choice import Choice
from bilora.compare.comparison import choice_jobs, report_jobs, run_comparison
from bilora.compare.config import NO_OPTIONS, ComparisonConfig
from bilora.compare.folders import RecordFolder
from bilora.compare.lines import Line
from bilora.compare.workers import run_jobs
from bilora.errors import DivergedError, SettingsError

# So few steps may end with one answer to every row, of which a correlation says nothing.
pytestmark = pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")


def compare(*args: Any, **changed: Any) -> list[Line]:
    return run_comparison(small(*args, **changed), command="bilora compare --model /a/b/model")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def done(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison."""
    folder = tmp_path_factory.mktemp("comparison")
    compare(inputs, folder / "comparison", document=str(folder / "results.md"))
    return folder / "comparison"


def test_the_config_that_is_written_reads_back(inputs: Path, done: Path) -> None:
    words = ["--config", str(done / "config.yaml")]
    read = parse_config(ComparisonConfig, words, prog="", description="", left_out={"run": NO_OPTIONS})
    assert read == small(inputs, done, document=str(done.parent / "results.md"))


def test_trusted_rows_and_weights_reach_every_run(inputs: Path, tmp_path: Path) -> None:
    rows = [{**row, "weight": 0.5} for row in lines(inputs / "train.jsonl")]
    for name, part in (("many", rows[:48]), ("few", rows[48:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    run = {"train_file": str(tmp_path / "many.jsonl"), "trusted_file": str(tmp_path / "few.jsonl")}
    run |= {"weight_column": "weight", "road": "method"}
    config = small(inputs, tmp_path, methods=["lora"], entries={}, run=run)
    (job, *_) = report_jobs(config, {"lora": Choice(config.candidates("lora")[0], [])})
    read = comparison_jobs.read_rows(job.config)
    assert read.upper is not None and (len(read.train), len(read.upper)) == (48, 12)
    assert {row["weight"] for row in read.train} == {0.5}
    assert comparison_jobs.read_rows(job.config) is read


def test_every_method_tries_as_many_candidates_on_held_out_training_rows(done: Path) -> None:
    records = (json.loads(path.read_text()) for path in sorted(done.glob("runs/*/comparison.json")))
    trials = [record for record in records if record["purpose"] == "choose"]
    assert sorted(trial["label"] for trial in trials) == ["b", "b", "lora", "lora"]
    assert {(trial["set"], trial["seed"]) for trial in trials} == {("held_out", 0)}
    for trial in trials:
        # The ids are those of the training file, and what is held out is in no split.
        ids = [row["id"] for row in lines(done / trial["folder"] / "predictions-held_out.jsonl")]
        assert len(set(ids)) == len(ids) == 12
        if trial["label"] == "b":
            (split,) = json.loads((done / trial["folder"] / "split.json").read_text())
            assert len(ids) + len(split["lower"]) + len(split["upper"]) == 60
            assert len({*ids, *split["lower"], *split["upper"]}) == 60


def test_the_best_candidate_is_the_one_that_is_reported_and_scored(done: Path) -> None:
    chosen = json.loads((done / "chosen.json").read_text())
    results = lines(done / "results.jsonl")
    assert [(row["label"], row["seed"]) for row in results] == [("lora", 0), ("b", 0), ("lora", 1), ("b", 1)]
    for row in results:
        best = max(chosen[row["label"]]["tried"], key=lambda tried: (tried["score"], -tried["loss"]))
        assert row["candidate"] == chosen[row["label"]]["candidate"] == best["candidate"]
        settings = yaml.safe_load((done / row["folder"] / "config.yaml").read_text())
        assert settings["lower"]["learning_rate"] == row["candidate"]["lower.learning_rate"]
        answers = lines(done / row["folder"] / "predictions-validation.jsonl")
        assert len(answers) == 20
        assert {answer["label"] for answer in answers} == {"bad", "good"}
        right = sum(answer["label"] == answer["prediction"] for answer in answers)
        assert right / len(answers) == pytest.approx(row["score"], abs=1e-12)


def test_files_hold_the_same_numbers(done: Path) -> None:
    results = pandas.DataFrame(lines(done / "results.jsonl"))
    assert pandas.read_csv(done / "results.csv")["score"].tolist() == results["score"].tolist()
    summary = {line["label"]: line for line in lines(done / "summary.jsonl")}
    of_b, of_lora = (results["score"][results["label"] == label] for label in ("b", "lora"))
    assert summary["b"]["score"]["mean"] == pytest.approx(sum(of_b) / 2, abs=1e-12)
    assert summary["b"]["difference"] == pytest.approx((sum(of_b) - sum(of_lora)) / 2, abs=1e-12)
    assert summary["b"]["row_interval"] is not None
    assert summary["lora"]["difference"] is None
    # The baseline has reached its own best score, with both seeds.
    assert summary["lora"]["reached"] == 2


def test_the_document_has_the_section_and_no_path_of_this_machine(done: Path) -> None:
    text = (done / "comparison.md").read_text(encoding="utf-8")
    assert (done.parent / "results.md").read_text(encoding="utf-8") == text
    assert "| lora | 2 |" in text
    assert "Every method chose among 2 candidates" in text
    assert "no p-value can be below 0.05" in text
    assert "bilora compare --model DIR/model" in text
    assert str(done.parent) not in text


def test_what_is_finished_is_not_run_again(
    inputs: Path, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lines(done / "results.jsonl")
    (removed,) = (path for path in (done / "runs").iterdir() if path.name.startswith("lora-run-seed1"))
    shutil.rmtree(removed)
    (done / "unfinished" / removed.name).mkdir(parents=True)
    counted = MagicMock(wraps=comparison_jobs.run_once)
    monkeypatch.setattr(comparison_jobs, "run_once", counted)
    compare(inputs, done)
    plans = [call.args[0] for call in counted.call_args_list]
    assert [(plan.config.method, plan.config.seed) for plan in plans] == [("lora", 1)]
    timed = {"seconds": None, "peak_memory_mb": None}
    assert [row | timed for row in before] == [row | timed for row in lines(done / "results.jsonl")]
    assert "run 4/4" in capsys.readouterr().out


def test_another_setting_makes_other_runs(inputs: Path, done: Path) -> None:
    config = small(inputs, done, run={"steps": 5})
    choices = {label: Choice(config.candidates(label)[0], []) for label in config.methods}
    assert all(RecordFolder(done).finished(job) is None for job in report_jobs(config, choices))
    assert all(RecordFolder(done).finished(job) is not None for job in choice_jobs(small(inputs, done)))


def test_a_run_that_diverges_is_a_result_without_a_score(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_once = comparison_jobs.run_once

    def failing(*args: Any, **changed: Any) -> Any:
        if (args[0].config.method, args[0].config.seed) == ("bilora", 1):
            changed["folder"].mkdir(parents=True)
            raise DivergedError("the loss is nan")
        return run_once(*args, **changed)

    monkeypatch.setattr(comparison_jobs, "run_once", failing)
    compared = compare(inputs, tmp_path / "a", learning_rates=[0.05])
    assert [(line.label, line.seeds, line.failed) for line in compared] == [("lora", 2, 0), ("b", 1, 1)]
    printed = capsys.readouterr().out
    assert "b, seed 1, lower.learning_rate 0.05, upper.learning_rate 0.05: the loss is nan" in printed
    assert "1 (1 diverged)" in printed


def test_equal_seconds_give_a_costlier_method_fewer_steps(inputs: Path, tmp_path: Path) -> None:
    config = small(inputs, tmp_path, budget="seconds", learning_rates=[0.05], run={"steps": 100})
    assert len(choice_jobs(config)) == 2  # to time them, though there is nothing to choose
    assert choice_jobs(dataclasses.replace(config, budget="steps")) == []
    choices = {"lora": Choice({}, [], 10.0), "b": Choice({}, [], 25.0)}
    steps = {job.label: job.config.steps for job in report_jobs(config, choices)}
    assert steps == {"lora": 100, "b": 40}


def test_a_folder_with_something_else_is_left_alone(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="holds something else than a comparison"):
        compare(inputs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_two_jobs_at_once_give_the_numbers_of_one_and_end_when_told(inputs: Path, done: Path, tmp_path: Path) -> None:
    config = small(inputs, tmp_path)
    jobs = choice_jobs(config)
    endless = [
        dataclasses.replace(job, config=dataclasses.replace(job.config, steps=100_000), seed=seed)
        for seed, job in enumerate(jobs[:3])
    ]
    running = run_jobs([*jobs, *endless], RecordFolder(tmp_path), at_once=2)
    records = {job.name: record for job, record in itertools.islice(running, len(jobs))}
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"] == "1"
    for job in jobs:
        before, now = RecordFolder(done).finished(job), records[job.name]
        for name in ("score", "validation_loss"):
            assert before is not None and now["row"][name] == before["row"][name]
    began = time.monotonic()
    running.close()  # type: ignore[attr-defined]  # as an error does, a signal among them
    assert time.monotonic() - began < 10.0
    assert not multiprocessing.active_children()
    assert not any(RecordFolder(tmp_path).finished(job) for job in endless)
