"""The main job's words, its real data of other forms, and the demo as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tracked_files import ROOT

from bilora.commands.command_line import parse_config
from bilora.runs.config import SeveralRuns


@pytest.mark.parametrize(
    ("given", "demo"),
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
def test_the_demo_s_config_is_read_unless_another_or_a_task_is_named(
    run_glue: Any, given: list[str], demo: bool
) -> None:
    first = ["--config", str(ROOT / "benchmarks" / "configs" / "demo.yaml")] if demo else []
    assert run_glue.PROGRAM.default_words(given) == first


def test_printed_config_is_yaml_from_the_first_line(run_command: Any, tmp_path: Path) -> None:
    printed = run_command(["--seeds", "3", "--print_config"])
    assert printed.code == 0
    path = tmp_path / "config.yaml"
    path.write_text(printed.out, encoding="utf-8")
    assert parse_config(SeveralRuns, ["--config", str(path)], prog="", description="").seeds == [3]


@pytest.mark.parametrize(
    ("task", "metrics"),
    [("mrpc", {"loss", "accuracy", "f1"}), ("stsb", {"loss", "pearson", "spearmanr"}), ("mnli", {"loss", "accuracy"})],
)
def test_tasks_from_a_folder(
    run_command: Any, read_results: Any, few_rows: Any, small: list[str], tmp_path: Path, task: str, metrics: set[str]
) -> None:
    output = tmp_path / "out"
    words = ["--task", task, "--data-dir", str(few_rows("glue", task)), "--method", "bilora", "lora", "--seeds", "0"]
    ended = run_command([*small, *words, "--output", str(output)])
    assert ended.code == 0, ended.err
    assert ("note: validation_mismatched is not in" in ended.out) == (task == "mnli")
    for row in read_results(output):
        assert set(row["metrics"]) == metrics
        assert row["score"] == row["metrics"][row["metric"]]
        assert row["score"] is not None
    (split,) = json.loads((output / "bilora-seed0" / "split.json").read_text(encoding="utf-8"))
    assert not set(split["lower"]) & set(split["upper"])


WITHOUT_NETWORK = """
import runpy, socket, sys

def refuse(*_, **__):
    raise AssertionError("the demo opened a socket")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_demo_runs_without_a_network(read_results: Any, tmp_path: Path) -> None:
    """The real model and sentences, with fewer steps, in a process of its own; and not told to be offline."""
    words = "--steps 8 --train-rows 64 --max-length 16 --seeds 0 --lower.batch-size 8 --upper.batch-size 8 --output out"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, str(ROOT / "benchmarks" / "run_glue.py"), *words.split()],
        cwd=tmp_path,
        env={**environment, "HF_HOME": str(tmp_path / "empty-cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {row["method"] for row in read_results(tmp_path / "out")} == {"bilora", "lora"}
    assert "│ bilora " in ended.stdout
