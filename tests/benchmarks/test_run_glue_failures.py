"""What the main job says and leaves behind when it cannot go on."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from bilora.compare import jobs as comparison_jobs
from bilora.errors import DivergedError

pytestmark = pytest.mark.usefixtures("own_handler", "in_tmp_path")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to load a model fails the test."""
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stepps", "4"], "unrecognized arguments: --stepps 4 Did you mean '--steps'?"),
        (["--steps", "0"], "steps is 0, it must be at least 1"),
        (["--task", "mrpc", "--data-dir", "none"], "there is no folder none/mrpc"),
        (["--model", "org/model"], "no model can be loaded from the hub id (or missing folder) 'org/model'"),
        (["--output", "full"], "output folder full is not empty"),
        (["--output", "full/file"], "output folder full/file cannot be created"),
        (["--max-length", "65"], "max_length is 65, but the bert model has 64 positions"),
        (["--train-rows", "9000"], "9,000 rows are asked for"),
        (["--upper.batch-size", "9"], "the upper part has 8 rows, fewer than a batch of 9"),
        (["--device", "mps:0:1"], "device is 'mps:0:1'"),
    ],
)
def test_bad_input_is_one_line_before_any_model_is_loaded(
    run_command: Any, small: list[str], tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine", encoding="utf-8")
    output = [] if "--output" in words else ["--output", "out"]
    ended = run_command([*small, *output, *words])
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("run_glue.py: error: ")
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


@pytest.mark.parametrize("method", ["bilora", "lora", "adalora"])
def test_target_modules_that_the_model_does_not_have(run_command: Any, small: list[str], method: str) -> None:
    words = ["--method", method, f"--method_settings.{method}.target_modules", "[q_proj]", "--output", "out"]
    ended = run_command([*small, *words])
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert f"method '{method}' cannot be put on the model" in line
    assert "query" in line, "those there are"


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (DivergedError("level 'lower', step 3: loss nan"), (3, "level 'lower', step 3: loss nan")),
        (KeyboardInterrupt(), (130, "interrupted; finished runs are in results.jsonl")),
    ],
)
def test_finished_runs_are_kept(
    run_command: Any, small: list[str], tmp_path: Path, monkeypatch: Any, error: BaseException, ended: tuple[int, str]
) -> None:
    first = comparison_jobs.run_once

    def run_once(plan: Any, *arguments: Any, **named: Any) -> Any:
        if plan.config.seed == 6:
            raise error
        return first(plan, *arguments, **named)

    monkeypatch.setattr(comparison_jobs, "run_once", run_once)
    stopped = run_command([*small, "--method", "lora", "--seeds", "5", "6", "--output", "out"])
    assert (stopped.code, stopped.err) == (ended[0], f"run_glue.py: error: {ended[1]}\n")
    (line,) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert (json.loads(line)["method"], json.loads(line)["seed"]) == ("lora", 5)


def test_a_run_that_diverges_says_where_and_what_to_do(run_command: Any, small: list[str], tmp_path: Path) -> None:
    words = ["--method", "lora", "--seeds", "0", "--lower.learning-rate", "1e30", "--lower.schedule", "constant"]
    ended = run_command([*small, *words, "--lower.warmup", "0", "--steps", "20", "--output", "out"])
    assert ended.code == 3
    (line,) = ended.err.splitlines()
    assert line.startswith("run_glue.py: error: level 'lower', step ")
    assert "no parameter was moved by this step" in line
    assert not (tmp_path / "out" / "results.jsonl").exists()
    steps = (tmp_path / "out" / "lora-seed0" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert all("NaN" not in line for line in steps), "lines up to the divergence are on the disk, and strict"
