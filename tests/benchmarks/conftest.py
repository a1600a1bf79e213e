"""The benchmark as a module, a tiny model for it, and small pieces of the real data."""

import contextlib
import functools
import gzip
import io
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tracked_files import ROOT, loaded

KEYS = {
    *("task", "method", "formulation", "hypergradient", "seed", "metric", "score", "train_loss", "scored_on"),
    *("validation_loss", "steps", "seconds", "peak_memory_mb", "trainable_parameters", "config_sha256", "versions"),
}
EXTRA = {"metrics"}
"""What a row of results must have, and what it may have beside."""


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def in_this_process(program: Any, argv: Sequence[object]) -> Ended:
    """Run a program's words, and catch what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = program.run([str(word) for word in argv])
        except SystemExit as ended:
            code = ended.code
    return Ended(code, out.getvalue(), err.getvalue())


def command_of(name: str) -> Any:
    """Return a fixture that runs the words of a program in this process."""

    @pytest.fixture(scope="session")
    def command() -> Callable[[Sequence[object]], Ended]:
        return functools.partial(in_this_process, loaded(ROOT / "benchmarks" / f"{name}.py").PROGRAM)

    return command


run_command, run_ner_command, run_nlg_command = map(command_of, ("run_glue", "run_ner", "run_nlg"))


@pytest.fixture(scope="session")
def run_glue() -> Any:
    """The program for texts."""
    return loaded(ROOT / "benchmarks" / "run_glue.py")


@pytest.fixture(scope="session")
def read_results() -> Any:
    """Read results.jsonl as strict JSON, each row with exactly the keys it must have."""

    def read(folder: Path) -> list[dict[str, Any]]:
        lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
        for row in rows:
            assert set(row) - EXTRA == KEYS
        return rows

    return read


@pytest.fixture(scope="session")
def small(tiny_encoder: Path) -> list[str]:
    """The words that make any run of the program a run of a second."""
    words = f"--model {tiny_encoder} --train-rows 40 --steps 4 --unroll-steps 2 --max-length 32 --device cpu"
    batches = "--lower.batch-size 8 --upper.batch-size 8 --lower.learning-rate 0.05"
    return [*words.split(), *batches.split()]


@pytest.fixture
def in_tmp_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start in an empty folder, where default output folders would be."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def wait_for() -> Any:
    """Wait until a process has begun to write a file."""

    def wait(path: Path, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 120
        while not (path.exists() and path.stat().st_size > 0):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait


@pytest.fixture
def few_rows(real_data: Path, tmp_path: Path) -> Any:
    """Copy the first rows of a real task to a folder for ``--data-dir``."""
    return lambda family, task: copy_rows(real_data / family, tmp_path / family, task)


def copy_rows(source: Path, to: Path, task: str) -> Path:
    """Copy the first 60 rows of each set of a task."""
    target = to / task
    target.mkdir(parents=True)
    for path in sorted((source / task).iterdir()):
        if not path.name.startswith(("train", "validation")):
            continue
        opened: Any = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            rows = [line for _, line in zip(range(60), file, strict=False)]
        (target / path.name.removesuffix(".gz")).write_text("".join(rows), encoding="utf-8")
    return to
