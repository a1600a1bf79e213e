"""The main job's words, its real data of other forms, files of one's own, and the demo as a user runs it."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import program, results, run_glue
from tracked_files import ROOT

from bilora.tasks.kinds import read_task


@pytest.mark.parametrize(
    ("given", "embedded"),
    [
        ([], True),
        (["--seeds", "3"], True),
        (["--task", "mrpc"], False),
        (["--task=mrpc"], False),
        (["--train-file", "rows.csv"], False),
        (["--train_file=rows.csv"], False),
        (["--config", "a.yaml"], False),
        (["--steps", "3", "--config=a.yaml"], False),
    ],
)
def test_the_embedded_config_is_read_unless_another_or_a_task_is_named(given: list[str], embedded: bool) -> None:
    first = ["--config", str(ROOT / "benchmarks" / "configs" / "embedded.yaml")] if embedded else []
    assert program("run_glue").default_words(given) == first


def test_printed_config_is_yaml_from_the_first_line(tmp_path: Path) -> None:
    printed = run_glue("--seeds", "3", "--print_config")
    assert printed.code == 0
    (tmp_path / "config.yaml").write_text(printed.out, encoding="utf-8")
    assert program("run_glue").parse(["--config", str(tmp_path / "config.yaml")]).seeds == [3]


@pytest.mark.parametrize(
    ("task", "metrics"),
    [("mrpc", {"loss", "accuracy", "f1"}), ("stsb", {"loss", "pearson", "spearmanr"}), ("mnli", {"loss", "accuracy"})],
)
def test_tasks_from_a_folder(few_rows: Any, small: list[str], tmp_path: Path, task: str, metrics: set[str]) -> None:
    words = ["--task", task, "--data-dir", few_rows("glue", task), "--method", "bilora", "lora", "--seeds", "0"]
    ended = run_glue(*small, *words, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert ("note: validation_mismatched is not in" in ended.out) == (task == "mnli")
    for row in results(tmp_path / "out"):
        assert set(row["metrics"]) == metrics
        assert row["score"] == row["metrics"][row["metric"]]
        assert row["score"] is not None
    run = tmp_path / "out" / "bilora-seed0"
    assert (run / "label_map.json").exists() == (task != "stsb")
    (split,) = json.loads((run / "split.json").read_text(encoding="utf-8"))
    assert not set(split["lower"]) & set(split["upper"])


# A tiny model may find one class only at a validation, and its correlation is then undefined.
@pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")
def test_a_file_with_string_labels_and_weights(small: list[str], tmp_path: Path) -> None:
    """One mail in five is spam; every text has a line break and a comma inside."""
    spam, ham = ("win,\nnow {}", "spam"), ("see, you\n{}", "ham")
    mails = [(f"hello {i}", body.format(i), kind) for i in range(80) for body, kind in [ham if i % 5 else spam]]
    with (tmp_path / "mail.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("subject", "body", "kind"), *mails])
    words = ["--train-file", tmp_path / "mail.csv", "--text-columns", "subject,body", "--label-column", "kind"]
    words += ["--method", "bilora", "adalora", "--seeds", "0"]
    losses = {}
    for weights in ("none", "auto"):
        out = tmp_path / weights
        ended = run_glue(*small, *words, "--class-weights", weights, "--output", out)
        assert (ended.code, ended.err) == (0, "")
        assert "note: the labels in 'kind' of" in ended.out
        assert "note: validation is 8 of the 80 rows" in ended.out
        rows, run = results(out), out / "bilora-seed0"
        assert [(row["task"], row["metric"]) for row in rows] == [("mail", "accuracy")] * 2
        assert set(rows[0]["metrics"]) == {"loss", "accuracy", "macro_f1", "matthews_correlation"}
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[weights] = [lines[0]["lower_loss"], *(line["upper_loss"] for line in lines if "upper_loss" in line)]
        assert json.loads((run / "label_map.json").read_text(encoding="utf-8")) == {"ham": 0, "spam": 1}
        assert read_task(run / "adapter")[0].label_names == ("ham", "spam")
    assert losses["auto"][0] != losses["none"][0], "the lower level is weighted from its first step"
    assert losses["auto"][1] != losses["none"][1], "so is the upper level"


WITHOUT_NETWORK = """
import runpy, socket, sys

def refuse(*_, **__):
    raise AssertionError("the demo opened a socket")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_demo_runs_without_a_network(tmp_path: Path) -> None:
    """The real model and sentences, with fewer steps, in a process of its own; and not told to be offline."""
    words = "--steps 8 --train-rows 64 --max-length 4 --seeds 0 --lower.batch-size 8 --upper.batch-size 8 --output out"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, str(ROOT / "benchmarks" / "run_glue.py"), *words.split()],
        cwd=tmp_path,
        env={**environment, "HF_HOME": str(tmp_path / "empty-cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    # A line of progress stands there every 30 seconds.
    assert ended.returncode == 0
    assert [line for line in ended.stderr.splitlines() if not line.endswith(" left")] == []
    assert {row["method"] for row in results(tmp_path / "out")} == {"bilora", "lora"}
    assert " bilora " in ended.stdout
