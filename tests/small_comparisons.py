"""Small comparisons, some of which come to harm; as a script, one that is to be killed: ``HOW FOLDER [ADDRESS]``."""

import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import bilora.compare.on_ray
from bilora.commands.exit_codes import exit_code
from bilora.compare.choice import Choice
from bilora.compare.comparison import report_jobs, run_comparison
from bilora.compare.config import ComparisonConfig
from bilora.compare.folders import Job, Record, RecordFolder
from bilora.compare.on_ray import Home, Sent, SharedModel, train
from bilora.compare.workers import SPAWN, end_with_parent, run_jobs
from bilora.data.sets import TaskRows
from bilora.engines.checkpoints.saving import Checkpoints
from bilora.engines.settings import LevelSettings
from bilora.files.formats import write_whole
from bilora.models.embedded import embedded_reviews
from bilora.problems.levels.out_of_memory import OutOfMemory
from bilora.runs.several_runs import SharedSettings


def write_inputs(folder: Path, model: Path) -> Path:
    """Write 60 training rows and 20 validation rows beside a link to a model."""
    (folder / "model").symlink_to(model)
    rows = embedded_reviews()
    half = [index for pair in zip(range(40), range(len(rows) - 40, len(rows)), strict=True) for index in pair]
    lines = [json.dumps({"text": rows[row]["text"], "label": ("bad", "good")[rows[row]["label"]]}) for row in half]
    (folder / "train.jsonl").write_text("\n".join(lines[:60]) + "\n", encoding="utf-8")
    (folder / "validation.jsonl").write_text("\n".join(lines[60:]) + "\n", encoding="utf-8")
    return folder


def small(inputs: Path, output: Path, **changed: Any) -> ComparisonConfig:
    run = {
        **{"train_file": str(inputs / "train.jsonl"), "validation_file": str(inputs / "validation.jsonl")},
        **{"text_columns": ["text"], "model": str(inputs / "model"), "max_length": 16, "device": "cpu"},
        **{"steps": 4, "unroll_steps": 2, "validate_every": 2},
        **dict.fromkeys(("lower", "upper"), LevelSettings(batch_size=4, learning_rate=0.05)),
        **changed.pop("run", {}),
    }
    settings = {
        "methods": ["lora", "b"],
        "entries": {"b": {"method": "bilora", "run": {"hypergradient": "first_order"}}},
        **{"seeds": 2, "learning_rates": [0.01, 0.05], "output": str(output)},
        **changed,
    }
    return ComparisonConfig(run=SharedSettings(**run), **settings)


def jobs_of(config: ComparisonConfig) -> list[Job]:
    """Return the runs that a comparison reports, with each method's first candidate."""
    return report_jobs(config, {label: Choice(config.candidates(label)[0], []) for label in config.methods})


class Harmful(RecordFolder):
    """A folder in which seed 1 is killed as it begins, and seed 2 has too little memory."""

    def run_folder(self, job: Job) -> Path:
        # Never the process of the tests.
        if multiprocessing.parent_process() is not None:
            if job.seed == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if job.seed == 2:
                raise OutOfMemory("out of memory in step 1", section="lower")
        return super().run_folder(job)


class ShortAtTheEnd(RecordFolder):
    """A folder in which the runs of one method have too little memory at their end."""

    def keep(self, job: Job, record: Record) -> None:
        if job.label == "short":
            raise OutOfMemory("out of memory in step 8", section="lower")
        super().keep(job, record)


def on_ray(folder: Path, address: str, *more: str) -> ComparisonConfig:
    """Return a comparison of one run on Ray, and of one each of other methods: ``far`` diverges."""
    return small(
        folder,
        folder / "compared",
        methods=["lora", *more],
        entries={"far": {"method": "lora", "grid": [{"lower.learning_rate": 1e30}]}, "short": {"method": "lora"}},
        **{"seeds": 1, "learning_rates": [0.05], "runs_on": "ray" if address else "local"},
        ray_address=address or None,
        run={"steps": 8, "save_every": 1},
    )


def waiting_train(job: Job, home: Home, rows: TaskRows, model: SharedModel) -> Sent:
    """Run a job in a worker of Ray; that of ``lora`` waits in four of its steps to be ended, once in each."""

    def wait(self: Checkpoints, engine: Any) -> None:
        waiting = home.folder.path.parent / f"step-{engine.step}"
        if 3 <= engine.step <= 6 and not waiting.exists():
            write_whole(waiting, str(os.getpid()))
            while self._signals.received is None:
                time.sleep(0.02)
        on_step_end(self, engine)

    on_step_end = Checkpoints.on_step_end
    if job.label == "lora":
        Checkpoints.on_step_end = wait  # type: ignore[method-assign]
    try:
        return train(job, home, rows, model)
    finally:
        Checkpoints.on_step_end = on_step_end  # type: ignore[method-assign]


def compare_on_ray(folder: Path, address: str) -> int:
    """Return the exit code of the comparison as the command gives it."""
    # Not this script's own copy, which a worker could not find.
    bilora.compare.on_ray.train = importlib.import_module("small_comparisons").waiting_train
    return exit_code(lambda _: run_comparison(on_ray(folder, address), command=""), program="compare")


def watch_the_pipe(folder: Path) -> None:
    """Wait for the parent's end, on a machine without death signals."""
    sys.platform = "darwin"

    def told(number: int, _: object) -> None:
        (folder / "told").write_text(str(number), encoding="ascii")
        os._exit(0)

    signal.signal(signal.SIGTERM, told)
    end_with_parent()
    (folder / "watching").touch()
    time.sleep(120)


def main(how: str, folder: Path, *address: str) -> None:
    if how == "ray":
        sys.exit(compare_on_ray(folder, *address))
    if how == "pipe":
        SPAWN.Process(target=watch_the_pipe, args=(folder,)).start()
        time.sleep(120)
    endless = small(folder, folder, methods=["lora"], run={"steps": 100_000, "validate_every": 0})
    for _ in run_jobs(jobs_of(endless), RecordFolder(folder), at_once=2):
        pass


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
