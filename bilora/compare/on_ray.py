"""The runs of a comparison as tasks of a Ray cluster: where a worker or a node dies, its run goes on elsewhere."""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bilora.compare.folders import Job, RecordFolder
from bilora.compare.jobs import data_of, read_rows
from bilora.compare.workers import LAST_STEP, Lost, Outcome, RunJobs, as_sent, finished_first, outcome_of
from bilora.data.sets import TaskRows
from bilora.engines.checkpoints.files import checkpoints
from bilora.engines.checkpoints.stop_signals import sigterm_raised
from bilora.errors import InterruptedRun, ProcessesError, SettingsError
from bilora.files.whole_folders import cache_root, sha256_of
from bilora.models.copies import ModelCopy, laid_out, model_files
from bilora.models.pretrained import first_line, load_tokenizer, model_place
from bilora.settings.lookup import import_extra

# How often Ray makes a run again whose worker or node has died.
RETRIES = 3
# Seconds between two words to a run that is to end.
CANCEL_EVERY = 120.0
# Beside runs/: a file per run with what it printed, each of its attempts.
LOGS = "logs"
# What a worker looks for in the comparison's folder, to know whether it sees the same one.
SEEN = ".seen-by-ray"


@dataclass(frozen=True)
class SharedModel:
    """A model in Ray's object store: its folder or hub id, and by file the SHA-256 and the reference to the bytes."""

    place: str
    digests: Mapping[str, str]
    references: Mapping[str, Any]

    def copy(self) -> ModelCopy:
        """Return the model with its files laid out on this machine, where they are written once."""
        ray = import_extra("ray", extra="ray")
        folder = laid_out(self.digests, lambda name: memoryview(ray.get(self.references[name])))
        return ModelCopy(self.place, str(folder))


@dataclass(frozen=True)
class Home:
    """The folder of the comparison, and the word that stands in it, by which a worker knows it again."""

    folder: RecordFolder
    word: str

    def is_here(self) -> bool:
        """Return whether this machine sees the folder."""
        try:
            return (self.folder.path / SEEN).read_text(encoding="ascii") == self.word
        except OSError:
            return False

    def on_this_machine(self) -> RecordFolder:
        """Return the folder, or where it is not to be seen one of the cache, where a run can go on as well."""
        if self.is_here():
            return self.folder
        # By its path there, so that a second start finds what the first has left.
        path = cache_root() / "ray" / str(self.folder.path).strip("/").replace("/", "-")
        path.mkdir(parents=True, exist_ok=True)
        return dataclasses.replace(self.folder, path=path)


@dataclass(frozen=True)
class Sent:
    """What comes back from a worker: the outcome or what ends the comparison, and what it has not written home."""

    outcome: Outcome | Exception
    # The files of a finished run, by their path in its folder, and the log; of a worker that does not see the folder.
    files: Mapping[str, bytes] = field(default_factory=dict)
    log: str = ""


def train(job: Job, home: Home, rows: TaskRows, model: SharedModel) -> Sent:
    """Run a job in a worker of Ray."""
    folder = home.on_this_machine()
    # A run may have ended, and its worker been lost before that was heard.
    outcome: Outcome | Exception | None = folder.finished(job)
    if outcome is None:
        with _log_of(job, folder):
            outcome = _tried(job, folder, rows, model)
    if folder.path == home.folder.path:
        return Sent(outcome)
    run, log = folder.path / "runs" / job.name, folder.path / LOGS / f"{job.name}.log"
    files = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    sent = Sent(outcome, files, log.read_text(encoding="utf-8"))
    shutil.rmtree(run, ignore_errors=True)
    log.unlink()
    return sent


def _tried(job: Job, folder: RecordFolder, rows: TaskRows, model: SharedModel) -> Outcome | Exception:
    try:
        return outcome_of(job, folder, rows=rows, base=model.copy())
    except InterruptedRun:
        # By the comparison's end, or by that of the machine, after which Ray makes the run again.
        raise
    except Exception as error:
        return as_sent(error)


@contextmanager
def _log_of(job: Job, folder: RecordFolder) -> Iterator[None]:
    """Write what is printed into the run's log, behind a line that says where it is made."""
    path = folder.path / LOGS / f"{job.name}.log"
    path.parent.mkdir(exist_ok=True)
    run = folder.run_folder(job)
    newest = max((step for step, _ in checkpoints(run)), default=0) if run.is_dir() else 0
    with path.open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        print(f"process {os.getpid()} on {socket.gethostname()}: from step {newest}")
        yield


@contextmanager
def ray_cluster(address: str | None, *, cpus: float, gpus: float) -> Iterator[RunJobs]:
    """Join a Ray cluster, or start one on this machine, and yield what runs jobs on it.

    Args:
        address: ``HOST:PORT``, or ``auto``; None takes the cluster that this machine belongs to, or starts one.
        cpus: Cores that Ray keeps for a run, and threads that it has.
        gpus: GPUs that Ray keeps for a run, or a part of one.

    Raises:
        SettingsError: Ray is not installed, does not answer, or has no machine with so many cores and GPUs.
    """
    ray = import_extra("ray", extra="ray")
    # Ray has put a handler of its own in the place of the command's.
    with _joined(ray, address), sigterm_raised():
        tasks = RayTasks(ray, cpus, gpus, Store(ray))
        tasks.check_room()
        yield tasks.run_jobs


@contextmanager
def _joined(ray: Any, address: str | None) -> Iterator[None]:
    # A program that has joined a cluster itself keeps it.
    if ray.is_initialized():
        yield
        return
    # Nothing is sent to anybody unasked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"ray_address is {address!r}, and no Ray cluster can be joined there: {first_line(error)}; start one with "
            "`ray start --head`, or leave the address out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Store:
    """What the runs of a comparison share, in Ray's object store, where each thing is put once."""

    ray: Any
    # With the rows themselves, of which the model's task is asked for.
    rows: dict[str, tuple[TaskRows, Any]] = field(default_factory=dict)
    models: dict[tuple[str | None, str | None], SharedModel] = field(default_factory=dict)

    def of(self, job: Job) -> tuple[Any, SharedModel]:
        """Return the reference to a job's rows, and its model."""
        data = data_of(job.config)
        if data not in self.rows:
            read = read_rows(job.config)
            self.rows[data] = read, self.ray.put(read)
        rows, reference = self.rows[data]
        name = rows.task.default_model if job.config.model is None else job.config.model
        revision = job.config.revision
        if (name, revision) not in self.models:
            # Refuses a model that cannot be read, before any run begins.
            load_tokenizer(name, rows.task, max_length=job.config.max_length, revision=revision)
            self.models[name, revision] = self._put(name, revision)
        return reference, self.models[name, revision]

    def _put(self, model: str | None, revision: str | None) -> SharedModel:
        files = model_files(model, revision=revision)
        # Arrays go into the store, and out of it, without a copy.
        references = {name: self.ray.put(np.fromfile(path, dtype=np.uint8)) for name, path in files.items()}
        # By its place, since an embedded one need not be on the other machines.
        return SharedModel(model_place(model), {name: sha256_of(path) for name, path in files.items()}, references)


@dataclass(frozen=True)
class RayTasks:
    """Runs jobs as tasks of the cluster that this process has joined."""

    ray: Any
    cpus: float
    gpus: float
    store: Store

    def check_room(self) -> None:
        """Refuse runs that no machine of the cluster has room for, which would wait for ever."""
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(has.get("CPU", 0) >= self.cpus and has.get("GPU", 0) >= self.gpus for has in machines):
            there = "; ".join(f"{has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs" for has in machines)
            raise SettingsError(
                f"a run takes {self.cpus:g} cores and {self.gpus:g} GPUs (cpus_per_run, gpus_per_run), and no machine "
                f"of the Ray cluster has them; there are {there}"
            )

    def run_jobs(self, jobs: Sequence[Job], folder: RecordFolder) -> Iterator[tuple[Job, Outcome]]:
        """Yield each job with its outcome as soon as it is there, finished ones first; all end with the caller."""

        def run(left: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
            with _seen(folder) as home:
                running = dict(zip(self._started(left, home), left, strict=True))
                try:
                    while running:
                        (ended, *_), _ = self.ray.wait(list(running))
                        job = running.pop(ended)
                        yield job, self._outcome(ended, job, home.folder)
                finally:
                    # Also on an interrupt, and on the GeneratorExit of a caller who wants no more.
                    self._end(list(running))

        return finished_first(jobs, folder, run)

    def _started(self, jobs: Sequence[Job], home: Home) -> list[Any]:
        """Return a reference for each job, which Ray begins as soon as there is room."""
        threads = str(max(1, int(self.cpus)))
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
        # A run without a GPU of its own must not take one that Ray has given to others.
        environment |= {} if self.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        remote = self.ray.remote(train).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_retries=RETRIES,
            retry_exceptions=[InterruptedRun],
            runtime_env={"env_vars": environment},
        )
        return [remote.remote(job, home, *self.store.of(job)) for job in jobs]

    def _outcome(self, reference: Any, job: Job, folder: RecordFolder) -> Outcome:
        """Return the outcome of a task; raise what ends the comparison."""
        errors = self.ray.exceptions
        try:
            sent: Sent = self.ray.get(reference)
        except errors.RayTaskError as error:
            # Ray's own error where a task's arguments cannot be read.
            if isinstance(error.cause, ImportError) or "No module named" in str(error.cause):
                raise SettingsError(
                    f"a worker of Ray cannot load what a run needs: {first_line(error.cause)}; install bilora, and "
                    "code of your own, in the same versions on every machine"
                ) from error
            # What the task itself has raised: an interrupt, each time that it was tried.
            raise error.cause from error
        except errors.OutOfMemoryError:
            return Lost("killed by Ray, as the memory of its machine ran out")
        except errors.WorkerCrashedError:
            return Lost(f"its process was killed {RETRIES + 1} times, as the system does where memory runs out")
        except errors.RayError as error:
            return Lost(f"lost {RETRIES + 1} times: {first_line(error)}", ProcessesError)
        _keep(sent, job, folder)
        if isinstance(sent.outcome, Exception):
            raise sent.outcome
        return sent.outcome

    def _end(self, running: Sequence[Any]) -> None:
        """End tasks: each saves its run at the next step."""
        left = list(running)
        for _ in range(int(LAST_STEP / CANCEL_EVERY)):
            if not left:
                return
            # Again and again: the first may come where somebody else's code catches what it raises. A second one ends a
            # run without saving it, so that it comes late.
            for reference in left:
                self.ray.cancel(reference)
            _, left = self.ray.wait(left, num_returns=len(left), timeout=CANCEL_EVERY)


@contextmanager
def _seen(folder: RecordFolder) -> Iterator[Home]:
    """Yield the folder as workers may see it, with a word in it meanwhile."""
    home = Home(dataclasses.replace(folder, path=folder.path.resolve()), secrets.token_hex(8))
    seen = home.folder.path / SEEN
    seen.write_text(home.word, encoding="ascii")
    try:
        yield home
    finally:
        seen.unlink(missing_ok=True)


def _keep(sent: Sent, job: Job, folder: RecordFolder) -> None:
    """Write what a worker that does not see the folder has sent."""
    if sent.log:
        (folder.path / LOGS).mkdir(exist_ok=True)
        with (folder.path / LOGS / f"{job.name}.log").open("a", encoding="utf-8") as log:
            log.write(sent.log)
    if not sent.files:
        return
    run = folder.run_folder(job)
    # Of an attempt that was made where the folder is seen.
    shutil.rmtree(run, ignore_errors=True)
    for name, content in sent.files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    (folder.path / "runs").mkdir(exist_ok=True)
    run.rename(folder.path / "runs" / job.name)
