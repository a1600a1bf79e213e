"""A comparison that is interrupted, and goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tracked_files import ROOT

from bilora.engines.checkpoints.files import checkpoints
from bilora.files.lock import locked

# The program shows them as lines of its own, which the tests read.
pytestmark = [pytest.mark.filterwarnings("always::RuntimeWarning"), pytest.mark.usefixtures("in_tmp_path")]
METHODS = ["--method", "bilora", "lora", "--seeds", "0", "--save-every", "2"]
PROGRAM = ROOT / "benchmarks" / "run_glue.py"


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of results without what the clock and the machine decide."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: each for name, each in row.items() if name not in ("seconds", "peak_memory_mb")} for row in rows]


@pytest.fixture
def whole(in_tmp_path: None, run_command: Any, small: list[str], tmp_path: Path) -> Path:
    """The same command, never interrupted."""
    assert run_command([*small, *METHODS, "--output", "whole"]).code == 0
    return tmp_path / "whole"


def started(words: list[str]) -> subprocess.Popen[str]:
    """Start the program as a process of its own, with the packages of this one."""
    packages = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": packages, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-P", str(PROGRAM), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_whole_step(
    run_command: Any, wait_for: Any, small: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    long = [*small, "--method", "bilora", "--seeds", "0", "--steps", "80"]
    process = started([*long, "--output", "out"])
    run = tmp_path / "out" / "bilora-seed0"
    wait_for(run / "metrics.jsonl", process)
    process.send_signal(number)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent < 10
    assert process.returncode == 128 + number
    ((step, folder),) = checkpoints(run)
    last = errors.splitlines()[-1]
    assert last == (
        f"run_glue.py: error: {number.name}: stopped after step {step}; out/bilora-seed0/{folder.name} is the newest "
        "checkpoint; go on with --resume out"
    )
    assert run_command(["--resume", "out"]).code == 0
    assert run_command([*long, "--output", "whole"]).code == 0
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    metrics = [(tmp_path / name / "bilora-seed0" / "metrics.jsonl").read_bytes() for name in ("out", "whole")]
    assert metrics[0] == metrics[1]


def test_a_second_interrupt_stops_at_once(wait_for: Any, small: list[str], tmp_path: Path) -> None:
    """The step is made endless, so that the first one cannot have an effect."""
    words = [*small, "--method", "lora", "--seeds", "0", "--save-every", "1", "--output", "out"]
    process = started([*words, "--steps", "3000", "--lower.accumulation", "4000", "--save-every", "1"])
    run = tmp_path / "out" / "lora-seed0"
    wait_for(run / "config.yaml", process)
    time.sleep(1.0)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("run_glue.py: error: interrupted")


def test_finished_runs_are_kept_and_the_interrupted_one_goes_on(
    run_command: Any, small: list[str], tmp_path: Path, whole: Path
) -> None:
    """As after a kill in the second run, with half a line of results and half a checkpoint."""
    out = tmp_path / "out"
    assert run_command([*small, *METHODS, "--output", "out"]).code == 0
    rows = (out / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (out / "results.jsonl").write_text(rows[0] + rows[1][:20], encoding="utf-8")
    (out / "lora-seed0" / "checkpoint-4" / "manifest.json").unlink()
    ended = run_command(["--resume", "out"])
    assert ended.code == 0
    assert "bilora-seed0: finished before" in ended.out
    assert "lora-seed0: training" in ended.out
    assert "warning: checkpoint skipped: checkpoint-4: manifest.json is missing" in ended.err
    assert numbers(out) == numbers(whole)


def test_auto_starts_anew_or_goes_on(run_command: Any, small: list[str], tmp_path: Path) -> None:
    words = [*small, *METHODS, "--output", "out", "--resume"]
    assert run_command([*words, "auto"]).code == 0
    ended = run_command(words)
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
def test_what_cannot_be_resumed(run_command: Any, words: list[str], said: str) -> None:
    ended = run_command(words)
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert re.search(said, line)


def test_a_changed_setting_is_shown(run_command: Any, whole: Path) -> None:
    (whole / "results.jsonl").write_text("", encoding="utf-8")
    words = ["--resume", "whole", "--lower.learning-rate", "0.01"]
    refused = run_command(words)
    assert refused.code == 2
    assert "lower.learning_rate: 0.05 -> 0.01; say --allow-config-change" in refused.err
    allowed = run_command([*words, "--allow-config-change"])
    assert allowed.code == 0
    assert "warning: the run goes on with other settings: lower.learning_rate: 0.05 -> 0.01" in allowed.err


def test_the_settings_of_the_command_are_kept(whole: Path) -> None:
    kept = yaml.safe_load((whole / "config.yaml").read_text(encoding="utf-8"))
    assert (kept["method"], kept["save_every"], kept["output"], kept["resume"]) == (["bilora", "lora"], 2, None, None)


@pytest.mark.usefixtures("whole")
def test_a_second_process_is_told(run_command: Any) -> None:
    with locked(Path("whole")):
        ended = run_command(["--resume", "whole"])
    assert ended.code == 2
    assert f"output folder whole is in use by process {os.getpid()}" in ended.err


def test_debug_shows_where(run_command: Any, small: list[str]) -> None:
    words = [*small, "--method", "bilroa"]
    assert "Traceback" not in run_command(words).err
    assert "Traceback" in run_command([*words, "--debug"]).err
