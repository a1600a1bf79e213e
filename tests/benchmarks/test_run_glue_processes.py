"""The main job under torchrun with two processes: the numbers of one, and the files of one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked import scripts
from programs import results, run_glue, wait_for
from tracked_files import ROOT

from bilora.artifacts.adapter_files import FINGERPRINT
from bilora.engines.checkpoints.files import checkpoints

pytestmark = pytest.mark.slow
PROGRAM = ROOT / "benchmarks" / "run_glue.py"
# Two processes have 40 rows.
BATCHES = ["--lower.batch-size", "4", "--upper.batch-size", "4"]
# With a checkpoint at each, long enough to be ended in the middle.
STEPS = 20


@pytest.fixture(scope="module")
def words(small: list[str], tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of every run of this file, the batches aside."""
    # Without dropout, whose masks are each process's own.
    model = shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("calm") / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(config))
    every = ["--validate-every", "10", "--save-every", "1", "--steps", str(STEPS)]
    # Small learning rates and a wide radius: the sums of two processes differ in their last bits, which many steps
    # multiply, and which a finite difference divides by its radius.
    calm = ["--model", str(model), "--lower.learning-rate", "1e-3", "--upper.learning-rate", "1e-3"]
    calm += ["--hypergradient.radius", "0.1"]
    return [*small, *calm, "--method", "bilora", "--seeds", "0", *every]


def torchrun(*words: str) -> subprocess.Popen[str]:
    """Start the launcher itself, which also hands signals on."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(PROGRAM), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def printed_by_two(*words: str) -> str:
    """Return what two processes printed, after both have ended well."""
    printed = ""
    for script in scripts(PROGRAM, *words, count=2):
        out, errors = script.communicate(timeout=500)
        assert script.poll() == 0, errors[-3000:]
        printed += out
    return printed


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from its start to its end, which the others are held against."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    out = printed_by_two(*words, *BATCHES, "--output", str(folder))
    assert out.count("results, plots and adapters") == 1
    assert out.count("training") == 1
    return folder


def numbers(folder: Path) -> list[dict[str, float]]:
    """Return the numbers of every line of metrics.jsonl, those of lists and validations aside."""
    lines = [json.loads(line) for line in (folder / "bilora-seed0" / "metrics.jsonl").read_text().splitlines()]
    floats = [{key: value for key, value in line.items() if isinstance(value, float)} for line in lines]
    assert sum("lower_loss" in line for line in floats) == STEPS
    assert sum("hypergradient_norm" in line for line in floats) == STEPS // 2
    return floats


def test_two_processes_give_one_set_of_files_and_the_numbers_of_one(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    single = run_glue(*words, "--output", tmp_path / "alone")
    assert single.code == 0, single.err
    together, alone = ({path.relative_to(root) for path in root.rglob("*")} for root in (whole, tmp_path / "alone"))
    assert together == alone
    (row,), (expected,) = results(whole), results(tmp_path / "alone")
    assert row["score"] == expected["score"]
    for name in ("train_loss", "validation_loss"):
        assert row[name] == pytest.approx(expected[name], abs=1e-5)
    for line, other in zip(numbers(whole), numbers(tmp_path / "alone"), strict=True):
        assert line == pytest.approx(other, abs=1e-5)
    assert json.loads((whole / "bilora-seed0" / "all_results.json").read_text())["processes"] == 2


def test_a_run_that_is_ended_goes_on_to_the_same_bits(words: list[str], whole: Path, tmp_path: Path) -> None:
    """With a sharded base, which changes no number that is trained or saved."""
    ended = tmp_path / "ended"
    process = torchrun(*words, *BATCHES, "--shard-base", "--output", str(ended))
    wait_for(ended / "bilora-seed0" / "metrics.jsonl", process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert "SIGTERM: stopped after step" in errors
    assert f"go on with --resume {ended}" in errors
    assert 0 < checkpoints(ended / "bilora-seed0")[0][0] < STEPS
    printed_by_two("--resume", str(ended))
    for line, other in zip(numbers(ended), numbers(whole), strict=True):
        assert line == pytest.approx(other, abs=1e-5)
    for name in ("adapter_model.safetensors", FINGERPRINT):
        once, twice = (root / "bilora-seed0" / "adapter" / name for root in (ended, whole))
        assert once.read_bytes() == twice.read_bytes(), name
