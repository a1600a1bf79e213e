"""A comparison that is interrupted, and goes on."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Script
from programs import results, run_glue, wait_for
from tracked_files import ROOT

from bilora.engines.checkpoints.files import checkpoints
from bilora.files.lock import locked

# The program shows them as lines of its own, which the tests read.
pytestmark = [pytest.mark.filterwarnings("always::RuntimeWarning"), pytest.mark.usefixtures("in_tmp_path")]
METHODS = ["--method", "bilora", "lora", "--seeds", "0", "--save-every", "2"]


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of results without what the clock and the machine decide."""
    return [row | {"seconds": None, "peak_memory_mb": None} for row in results(folder)]


@pytest.fixture(scope="module")
def finished(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a command that was never interrupted."""
    folder = tmp_path_factory.mktemp("finished") / "whole"
    assert run_glue(*small, *METHODS, "--output", folder).code == 0
    return folder


@pytest.fixture
def whole(finished: Path, in_tmp_path: None, tmp_path: Path) -> Path:
    """A copy of it, ``whole`` from where the test runs."""
    return shutil.copytree(finished, tmp_path / "whole")


# SIGTERM to two processes is in test_run_glue_processes.py; a second SIGINT in tests/faults/test_saving.py.
def test_an_interrupt_ends_the_run_after_a_whole_step(small: list[str], tmp_path: Path) -> None:
    long = [*small, "--method", "bilora", "--seeds", "0", "--steps", "80"]
    script = Script(ROOT / "benchmarks" / "run_glue.py", *long, "--output", "out")
    runs = [tmp_path / name / "bilora-seed0" for name in ("out", "whole")]
    wait_for(runs[0] / "metrics.jsonl", script)
    script.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, errors = script.communicate(timeout=60)
    assert time.monotonic() - sent < 10
    assert script.poll() == 130
    ((step, folder),) = checkpoints(runs[0])
    assert errors.splitlines()[-1] == (
        f"run_glue.py: error: SIGINT: stopped after step {step}; out/bilora-seed0/{folder.name} is the newest "
        "checkpoint; go on with --resume out"
    )
    assert run_glue("--resume", "out").code == 0
    assert run_glue(*long, "--output", "whole").code == 0
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    assert len({(run / "metrics.jsonl").read_bytes() for run in runs}) == 1


def test_finished_runs_are_kept_and_the_interrupted_one_goes_on(finished: Path, whole: Path) -> None:
    """As after a kill in the second run, with half a line of results and half a checkpoint."""
    rows = (whole / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (whole / "results.jsonl").write_text(rows[0] + rows[1][:20], encoding="utf-8")
    (whole / "lora-seed0" / "checkpoint-4" / "manifest.json").unlink()
    ended = run_glue("--resume", "whole")
    assert ended.code == 0
    assert "bilora-seed0: finished before" in ended.out
    assert "lora-seed0: training" in ended.out
    assert "warning: checkpoint skipped: checkpoint-4: manifest.json is missing" in ended.err
    assert numbers(whole) == numbers(finished)
    kept = yaml.safe_load((whole / "config.yaml").read_text(encoding="utf-8"))
    assert (kept["method"], kept["save_every"], kept["output"], kept["resume"]) == (["bilora", "lora"], 2, None, None)


def test_auto_starts_anew_or_goes_on(small: list[str], tmp_path: Path) -> None:
    words = [*small, *METHODS, "--output", "out", "--resume"]
    assert run_glue(*words, "auto").code == 0
    ended = run_glue(*words)
    assert ended.code == 0
    assert ended.out.count("finished before") == 2
    assert len(numbers(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume", "none"], "resume: none is not the output folder of an earlier command"),
        (["--resume"], "resume is 'auto', which goes on in the folder that --output names; give --output"),
        (["--resume", "whole", "--output", "other"], "output is other, but the run goes on in whole"),
        (["--output", "whole"], "output folder whole is not empty; .* or go on in it with --resume whole"),
        (["--resume", "whole", "--train-rows", "60"], "was run with other settings than these"),
    ],
)
@pytest.mark.usefixtures("whole")
def test_what_cannot_be_resumed(words: list[str], said: str) -> None:
    run_glue(*words).check_refused(said)


def test_a_changed_setting_is_shown(whole: Path) -> None:
    (whole / "results.jsonl").write_text("", encoding="utf-8")
    words = ["--resume", "whole", "--lower.learning-rate", "0.01"]
    refused = run_glue(*words)
    assert refused.code == 2
    assert "lower.learning_rate: 0.05 -> 0.01; say --allow-config-change" in refused.err
    allowed = run_glue(*words, "--allow-config-change")
    assert allowed.code == 0
    assert "warning: the run goes on with other settings: lower.learning_rate: 0.05 -> 0.01" in allowed.err


@pytest.mark.usefixtures("whole")
def test_a_second_process_is_told() -> None:
    with locked(Path("whole")):
        ended = run_glue("--resume", "whole")
    ended.check_refused(f"output folder whole is in use by process {os.getpid()}")


def test_debug_shows_where(small: list[str]) -> None:
    words = [*small, "--method", "bilroa"]
    assert "Traceback" not in run_glue(*words).err
    assert "Traceback" in run_glue(*words, "--debug").err
