"""A comparison on Ray: harmed in every way, it goes on, and ends with the numbers of one that was not."""

import _thread
import contextlib
import dataclasses
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import small_comparisons
from forked import Script
from small_comparisons import ShortAtTheEnd, jobs_of, on_ray, small, waiting_train, write_inputs

import bilora.compare.on_ray
from bilora.commands.exit_codes import code_of
from bilora.compare import comparison
from bilora.compare.comparison import run_comparison
from bilora.compare.folders import RecordFolder
from bilora.compare.jobs import read_rows
from bilora.compare.on_ray import SEEN, Home, RayTasks, SharedModel, Store, ray_cluster, train
from bilora.data.sets import TaskRows
from bilora.engines.checkpoints.files import checkpoints
from bilora.errors import ResourceError, SettingsError
from bilora.models.copies import ModelCopy

# So few steps may end with one answer to every row.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")]
HEALTH = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
TAKEN = ("seconds", "peak_memory_mb", "seconds_per_step", "command")


def waited(path: Path, *, seconds: float = 300.0) -> str:
    """Return the text of a file, once it is there; the machine may have much else to do."""
    until = time.monotonic() + seconds
    while not path.is_file():
        assert time.monotonic() < until, f"there is no {path.name} after {seconds} s"
        time.sleep(0.05)
    return path.read_text(encoding="utf-8")


def patiently(start: Callable[[], Any]) -> Any:
    """Start something of Ray's, a second and a third time where the machine takes longer than Ray's own 30 seconds."""
    for _ in range(2):
        # Ray has no class of its own for it.
        with contextlib.suppress(Exception):
            return start()
    return start()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of a head that makes no runs, and of two machines that make one each; all are processes here."""
    ray = pytest.importorskip("ray", reason="Ray is not installed; make ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Where workers find waiting_train.
        patch.setenv("PYTHONPATH", str(Path(small_comparisons.__file__).parent))
        # Ray would have workers give way to everything else on the machine.
        patch.setenv("RAY_worker_niceness", "0")
        # It would end runs for what else is in memory.
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH}
        started = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        try:
            # To the head, while it is alone: the machine that a driver is on cannot be taken away under it.
            ray.init(started.address, log_to_driver=False, logging_level="ERROR")
            for _ in range(2):
                # By the main thread, since a node takes a signal's handler for itself.
                patiently(lambda: started.add_node(num_cpus=1))
            yield started
        finally:
            ray.shutdown()
            started.shutdown()


@dataclass
class Harmed:
    """A comparison that was interrupted, whose driver, node and worker were killed in turn, and how it ended."""

    folder: Path
    interrupted: tuple[int | None, str]
    # The steps of the checkpoints that the interrupt left.
    saved: list[int]
    told: ResourceError
    put: list[Any]


@pytest.fixture(scope="module")
def harmed(cluster: Any, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Harmed:
    folder = write_inputs(tmp_path_factory.mktemp("on-ray"), tiny_encoder)
    start = functools.partial(Script, Path(small_comparisons.__file__), "ray", str(folder), cluster.address)
    first = start()
    waited(folder / "step-3")
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=300)
    (run,) = folder.glob("compared/unfinished/lora-run-seed0-*[0-9a-f]")
    saved = [step for step, _ in checkpoints(run)]
    second = start()
    worker = psutil.Process(int(waited(folder / "step-4")))
    second.send_signal(signal.SIGKILL)
    # Ray ends the workers of a driver that is gone.
    worker.wait(timeout=120)
    import ray

    put = MagicMock(wraps=ray.put)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "put", put)
        patch.setattr(comparison, "RecordFolder", ShortAtTheEnd)
        patch.setattr(bilora.compare.on_ray, "train", waiting_train)
        with ThreadPoolExecutor() as threads:
            harm = threads.submit(lose_node_and_worker, cluster, folder)
            with pytest.raises(ResourceError) as told:
                run_comparison(on_ray(folder, cluster.address, "far", "short"), command="")
            harm.result()
    return Harmed(
        folder / "compared", (first.poll(), errors), saved, told.value, [call.args[0] for call in put.mock_calls]
    )


def lose_node_and_worker(cluster: Any, folder: Path) -> None:
    """Kill the machine that makes the run, and then the worker that makes it on the other one."""
    try:
        worker = psutil.Process(int(waited(folder / "step-5")))
        above = {parent.pid for parent in worker.parents()}
        (node,) = [each for each in cluster.worker_nodes if each.all_processes["raylet"][0].process.pid in above]
        cluster.remove_node(node, allow_graceful=False)
        os.kill(int(waited(folder / "step-6")), signal.SIGKILL)
    except BaseException:
        # Or the run would wait for ever to be harmed.
        _thread.interrupt_main()
        raise


def run_of(folder: Path, label: str) -> Path:
    (run,) = folder.glob(f"runs/{label}-run-seed0-*")
    return run


def test_an_interrupt_saves_the_run(harmed: Harmed) -> None:
    code, errors = harmed.interrupted
    assert code == 130, errors
    assert max(harmed.saved) == 3


def test_every_attempt_goes_on_from_the_last_checkpoint(harmed: Harmed) -> None:
    (log,) = harmed.folder.glob("logs/lora-run-*.log")
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("process ")]
    # Interrupted in step 3, driver killed in 4, node in 5, worker in 6.
    assert [line.rpartition(": ")[2] for line in lines] == [f"from step {step}" for step in (0, 3, 3, 4, 5)]


def test_the_numbers_are_those_of_a_run_here_to_the_last_bit(
    harmed: Harmed, tiny_encoder: Path, tmp_path: Path
) -> None:
    write_inputs(tmp_path, tiny_encoder)
    # Where the rows and the model lie is written into what a run leaves.
    there = on_ray(harmed.folder.parent, "", "far")
    here = dataclasses.replace(there, output=str(tmp_path / "here"))
    run_comparison(here, command="")
    for label in ("lora", "far"):
        one, other = run_of(harmed.folder, label), run_of(tmp_path / "here", label)
        assert one.name == other.name
        first, second = (json.loads((run / "comparison.json").read_text()) for run in (one, other))
        # Why a run failed names its last checkpoint.
        first["failed"] = first["failed"] and first["failed"].replace(there.output, here.output)
        for record in (first, second):
            record["row"] = {name: value for name, value in (record["row"] or {}).items() if name not in TAKEN}
        assert first == second
        files = {str(path.relative_to(other)) for path in other.rglob("*") if path.is_file()}
        assert files == {str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()}
        same = [name for name in files if (one / name).read_bytes() == (other / name).read_bytes()]
        assert {name for name in files if name.endswith((".safetensors", "metrics.jsonl", "config.yaml"))} <= set(same)


def test_a_run_that_diverges_is_a_result_and_one_without_memory_is_lost_alone(harmed: Harmed) -> None:
    record = json.loads((run_of(harmed.folder, "far") / "comparison.json").read_text())
    assert "not finite" in record["failed"] or "nan" in record["failed"]
    assert str(harmed.told).startswith("1 of 3 runs did not end: short, seed 0")
    assert "out of memory in step 8" in str(harmed.told)
    assert code_of(harmed.told) == 4


def test_rows_and_model_are_put_into_the_store_once(harmed: Harmed, tiny_encoder: Path) -> None:
    assert sum(isinstance(value, TaskRows) for value in harmed.put) == 1
    assert len(harmed.put) == 1 + len(list(tiny_encoder.iterdir()))


def test_a_run_that_no_machine_has_room_for_is_refused(cluster: Any) -> None:
    with (
        pytest.raises(SettingsError, match="a run takes 1 cores and 1 GPUs .*, and no machine of the Ray cluster"),
        ray_cluster(cluster.address, cpus=1, gpus=1),
    ):
        pass


class HereAlready(SharedModel):
    """A model that is read where it is."""

    def copy(self) -> ModelCopy:
        return ModelCopy(self.place)


def test_a_machine_that_does_not_see_the_folder_sends_the_run(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILORA_CACHE", str(tmp_path / "cache"))
    (job,) = jobs_of(small(inputs, tmp_path, methods=["lora"], seeds=1))
    folder = RecordFolder(tmp_path / "home")
    folder.path.mkdir()
    (folder.path / SEEN).write_text("another comparison's", encoding="ascii")
    model = HereAlready(str(job.config.model), {}, {})
    sent = train(job, Home(folder, "word"), read_rows(job.config), model)
    assert [path.name for path in folder.path.iterdir()] == [SEEN]
    bilora.compare.on_ray._keep(sent, job, folder)
    assert folder.finished(job) == sent.outcome
    assert (folder.path / "runs" / job.name / "adapter" / "adapter_model.safetensors").is_file()
    (log,) = (folder.path / "logs").iterdir()
    assert log.read_text(encoding="utf-8").startswith(f"process {os.getpid()} on ")
    # Nothing stays there.
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_run_that_does_not_hear_is_told_again() -> None:
    ray = MagicMock()
    ray.wait.side_effect = [(["one"], ["two"]), (["two"], [])]
    RayTasks(ray, 1, 0, Store(ray))._end(["one", "two"])
    assert [call.args for call in ray.cancel.call_args_list] == [("one",), ("two",), ("two",)]


def test_without_ray_the_cure_is_told(monkeypatch: pytest.MonkeyPatch, inputs: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.import_module", MagicMock(side_effect=ModuleNotFoundError(name="ray")))
    with pytest.raises(SettingsError, match=r"the package ray, which is not installed; pip install 'bilora\[ray\]'$"):
        run_comparison(small(inputs, tmp_path, runs_on="ray"), command="")
