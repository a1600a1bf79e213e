"""The main job under torchrun with two processes: the numbers of one, and the files of one."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bilora.artifacts.adapter_files import FINGERPRINT
from bilora.engines.checkpoints.files import checkpoints

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "run_glue.py"
# Two processes have 40 rows.
BATCHES = ["--lower.batch-size", "4", "--upper.batch-size", "4"]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


# With a checkpoint at each, long enough to be ended in the middle.
STEPS = 20


@pytest.fixture(scope="module")
def calm_model(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without dropout, whose masks are each process's own."""
    folder = tmp_path_factory.mktemp("calm") / "model"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def words(small: list[str], calm_model: Path) -> list[str]:
    """The words of every run of this file, the batches aside."""
    every = ["--validate-every", "10", "--save-every", "1", "--steps", str(STEPS)]
    # Small learning rates and a wide radius: the sums of two processes differ in their last bits, which many steps
    # multiply, and which a finite difference divides by its radius.
    calm = ["--model", str(calm_model), "--lower.learning-rate", "1e-3", "--upper.learning-rate", "1e-3"]
    calm += ["--hypergradient.radius", "0.1"]
    return [*small, *calm, "--method", "bilora", "--seeds", "0", *every]


def torchrun(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCHER, str(PROGRAM), *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=500
    )


@dataclass
class Whole:
    """A run of two processes from its start to its end."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The run that the others are held against."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = torchrun([*words, *BATCHES, "--output", str(folder)])
    assert ended.returncode == 0, ended.stderr[-3000:]
    return Whole(folder, ended.stdout)


def numbers(folder: Path) -> list[dict[str, float]]:
    """Return the numbers of every line of metrics.jsonl, those of lists and validations aside."""
    lines = (folder / "bilora-seed0" / "metrics.jsonl").read_text().splitlines()
    found = [{key: value for key, value in json.loads(line).items() if isinstance(value, float)} for line in lines]
    assert sum("lower_loss" in each for each in found) == STEPS
    assert sum("hypergradient_norm" in each for each in found) == STEPS // 2
    return found


@pytest.mark.slow
def test_two_processes_give_one_set_of_files_and_the_numbers_of_one(
    words: list[str], whole: Whole, tmp_path: Path, run_command: Any, read_results: Any
) -> None:
    together, alone = whole.folder, tmp_path / "alone"
    single = run_command([*words, "--output", str(alone)])
    assert single.code == 0, single.err
    files = [sorted(str(each.relative_to(folder)) for each in folder.rglob("*")) for folder in (together, alone)]
    assert files[0] == files[1]
    assert whole.printed.count("results, plots and adapters") == 1
    assert whole.printed.count("training") == 1
    (row,), (expected,) = read_results(together), read_results(alone)
    assert row["score"] == expected["score"]
    for name in ("train_loss", "validation_loss"):
        assert row[name] == pytest.approx(expected[name], abs=1e-5)
    for own, other in zip(numbers(together), numbers(alone), strict=True):
        assert own == pytest.approx(other, abs=1e-5)
    everything = json.loads((together / "bilora-seed0" / "all_results.json").read_text())
    assert everything["processes"] == 2


@pytest.mark.slow
def test_a_mistake_of_the_user_is_told_once(small: list[str], tmp_path: Path) -> None:
    ended = torchrun([*small, "--method", "bilora", "--lower.batch-size", "30", "--output", str(tmp_path / "none")])
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("run_glue.py: error:")]
    assert said == [
        "run_glue.py: error: the lower part has 32 rows, fewer than a batch of 30 in each of 2 processes; give more "
        "rows or set a smaller batch size"
    ]
    assert not (tmp_path / "none").exists()


def weights(folder: Path) -> bytes:
    """Return the adapter's weights as they lie on the disk."""
    return (folder / "bilora-seed0" / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_that_is_ended_goes_on_to_the_same_bits(
    wait_for: Any, words: list[str], whole: Whole, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    process = subprocess.Popen(
        [*LAUNCHER, str(PROGRAM), *words, *BATCHES, "--output", str(ended)],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(ended / "bilora-seed0" / "metrics.jsonl", process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert "SIGTERM: stopped after step" in errors
    assert f"go on with --resume {ended}" in errors
    step = checkpoints(ended / "bilora-seed0")[0][0]
    assert 0 < step < STEPS
    again = torchrun(["--resume", str(ended)])
    assert again.returncode == 0, again.stderr[-3000:]
    assert weights(ended) == weights(whole.folder)


@pytest.mark.slow
def test_a_sharded_base_is_trained_saved_and_scored(words: list[str], whole: Whole, tmp_path: Path) -> None:
    folders = tmp_path / "sharded", whole.folder
    ended = torchrun([*words, *BATCHES, "--shard-base", "--output", str(folders[0])])
    assert ended.returncode == 0, ended.stderr[-3000:]
    for own, other in zip(*map(numbers, folders), strict=True):
        assert own == pytest.approx(other, abs=1e-5)
    marks = [json.loads((each / "bilora-seed0" / "adapter" / FINGERPRINT).read_text()) for each in folders]
    assert marks[0] == marks[1]
