"""Runs in processes: one that is killed is lost alone, and all end with their parent, after saving."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import small_comparisons
from small_comparisons import Harmful, jobs_of, small, write_inputs

from bilora.commands.exit_codes import code_of
from bilora.compare import comparison, jobs
from bilora.compare.comparison import run_comparison
from bilora.compare.workers import Lost, run_jobs
from bilora.engines.checkpoints.files import checkpoints, fault
from bilora.errors import DataError, ProcessesError, ResourceError

# So few steps may end with one answer to every row.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")]


def waited(what: Callable[[], Any], *, seconds: float = 300.0) -> None:
    """Wait until something is so; the machine may have much else to do."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_run_that_is_killed_or_short_of_memory_is_lost_alone(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(inputs, tmp_path, methods=["lora"], seeds=4, learning_rates=[0.05], jobs=2)
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "RecordFolder", Harmful)
        patch.setattr(comparison, "_at_once", int)
        with pytest.raises(ResourceError) as told:
            run_comparison(config, command="")
    words = "lora, seed {}, lower.learning_rate 0.05: {}"
    killed = words.format(1, "killed by SIGKILL, as the system does where memory runs out")
    short = words.format(2, "out of memory in step 1")
    assert str(told.value).startswith(f"2 of 4 runs did not end: {killed}; {short}. The others are kept in {tmp_path}")
    assert code_of(told.value) == 4
    printed = capsys.readouterr().out
    assert all(f"/4: {line}\n" in printed for line in (killed, short))
    # A second start makes these two alone, and the comparison is whole.
    counted = MagicMock(wraps=jobs.run_once)
    monkeypatch.setattr(jobs, "run_once", counted)
    (line,) = run_comparison(small(inputs, tmp_path, methods=["lora"], seeds=4, learning_rates=[0.05]), command="")
    assert sorted(call.args[0].config.seed for call in counted.call_args_list) == [1, 2]
    assert (line.seeds, line.failed) == (4, 0)


def test_any_other_error_ends_all(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": 1}\n', encoding="utf-8")
    config = small(inputs, tmp_path, methods=["lora"], seeds=1, run={"train_file": str(tmp_path / "bad.jsonl")})
    with pytest.raises(DataError, match=r"bad\.jsonl"):
        list(run_jobs(jobs_of(config), small_comparisons.RecordFolder(tmp_path), at_once=2))


def test_a_run_that_ends_in_another_way_is_a_fault() -> None:
    lost = Lost("ended by SIGSEGV", ProcessesError), Lost("out of memory")
    (job,) = jobs_of(small(Path(), Path(), methods=["lora"], seeds=1))
    with pytest.raises(ProcessesError, match="2 of 2 runs did not end: lora, seed 0.*: ended by SIGSEGV; lora"):
        comparison._refuse_lost([(job, each) for each in lost], path=Path())


@pytest.fixture
def killed(tiny_encoder: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder of which both scripts were killed, with all processes that they had started."""
    write_inputs(tmp_path, tiny_encoder)
    # Without its folder on the path, where tests/bilora would be taken for the library.
    words = [sys.executable, "-P", small_comparisons.__file__]
    scripts = [subprocess.Popen([*words, how, str(tmp_path)]) for how in ("pipe", "jobs")]
    try:
        waited(lambda: (tmp_path / "watching").exists() and len([*tmp_path.glob("unfinished/*/metrics.jsonl")]) == 2)
        below = [child for script in scripts for child in psutil.Process(script.pid).children(recursive=True)]
    finally:
        for script in scripts:
            script.kill()
            script.wait()
    _, alive = psutil.wait_procs(below, timeout=60.0)
    for process in alive:
        process.kill()
    assert len(below) >= 3
    assert not alive
    yield tmp_path


def test_children_of_a_killed_parent_save_and_end(killed: Path) -> None:
    for folder in killed.glob("unfinished/lora-run-seed*[0-9a-f]"):
        ((_, saved),) = checkpoints(folder)
        assert fault(saved) is None
    # Where there are no death signals, the end of the parent's pipe is one.
    assert (killed / "told").read_text(encoding="ascii") == "15"
