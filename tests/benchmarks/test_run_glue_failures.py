"""What the main job says and leaves behind when it cannot go on."""

import json
from pathlib import Path
from typing import Any

import pytest
from programs import run_glue
from transformers import AutoModelForSequenceClassification

from bilora.compare import jobs as comparison_jobs
from bilora.errors import DivergedError

pytestmark = pytest.mark.usefixtures("own_handler", "in_tmp_path")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stepps", "4"], "unrecognized arguments: --stepps 4 Did you mean '--steps'\\?"),
        (["--config", "full/rows.csv"], "line 3, column 2"),
        (["--steps", "0"], "steps is 0, it must be at least 1"),
        (["--task", "mrpc", "--data-dir", "none"], "there is no folder none/mrpc"),
        (["--model", "org/model"], "no model can be loaded from the hub id \\(or missing folder\\) 'org/model'"),
        (["--output", "full"], "output folder full is not empty"),
        (["--output", "full/rows.csv"], "output folder full/rows.csv cannot be created"),
        (["--max-length", "65"], "max_length is 65, but the bert model has 64 positions"),
        (["--train-rows", "9000"], "9,000 rows are asked for"),
        (["--upper.batch-size", "9"], "the upper part has 8 rows, fewer than a batch of 9"),
        (["--device", "mps:0:1"], "device is 'mps:0:1'"),
    ],
)
def test_bad_input_is_one_line_before_any_model_is_loaded(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "rows.csv").write_text("lower:\n  steps: 1\n bad: 2\n", encoding="utf-8")
    run_glue(*small, *([] if "--output" in words else ["--output", "out"]), *words).check_refused(said)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["full", "full/rows.csv"]


@pytest.mark.parametrize("method", ["bilora", "lora", "adalora"])
def test_target_modules_that_the_model_does_not_have(small: list[str], method: str) -> None:
    """The line names those there are."""
    words = ["--method", method, f"--method_settings.{method}.target_modules", "[q_proj]", "--output", "out"]
    run_glue(*small, *words).check_refused(f"method '{method}' cannot be put on the model.*query")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DivergedError("level 'lower', step 3: loss nan"), 3, "level 'lower', step 3: loss nan"),
        (KeyboardInterrupt(), 130, "interrupted; finished runs are in results.jsonl"),
    ],
)
def test_finished_runs_are_kept(
    small: list[str], tmp_path: Path, monkeypatch: Any, error: BaseException, code: int, said: str
) -> None:
    first = comparison_jobs.run_once

    def run_once(plan: Any, *arguments: Any, **named: Any) -> Any:
        if plan.config.seed == 6:
            raise error
        return first(plan, *arguments, **named)

    monkeypatch.setattr(comparison_jobs, "run_once", run_once)
    stopped = run_glue(*small, "--method", "lora", "--seeds", "5", "6", "--output", "out")
    assert (stopped.code, stopped.err) == (code, f"run_glue.py: error: {said}\n")
    (line,) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert (json.loads(line)["method"], json.loads(line)["seed"]) == ("lora", 5)


def test_a_run_that_diverges_says_where_and_what_to_do(small: list[str], tmp_path: Path) -> None:
    words = ["--method", "lora", "--seeds", "0", "--lower.learning-rate", "1e30", "--lower.schedule", "constant"]
    ended = run_glue(*small, *words, "--lower.warmup", "0", "--steps", "20", "--output", "out")
    assert ended.code == 3
    (line,) = ended.err.splitlines()
    assert line.startswith("run_glue.py: error: level 'lower', step ")
    assert "no parameter was moved by this step" in line
    assert not (tmp_path / "out" / "results.jsonl").exists()
    steps = (tmp_path / "out" / "lora-seed0" / "metrics.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in steps, "lines up to the divergence are on the disk, and strict"
