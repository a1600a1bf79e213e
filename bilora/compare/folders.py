"""The single runs of a comparison: where each is written, and which are finished."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bilora.errors import CheckpointError
from bilora.files.formats import write_json
from bilora.runs.config import RunConfig
from bilora.runs.config_hash import config_hash
from bilora.runs.folder import plain_name
from bilora.runs.several_runs import SeveralRuns

# A run's row of results, and what the run is in its comparison.
Record = Mapping[str, Any]
# Written last into the run's folder.
RECORD = "comparison.json"
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Job:
    """One run of a comparison."""

    # Of its entry.
    label: str
    seed: int
    config: RunConfig
    # Those of its settings that were chosen, or are being tried.
    candidate: dict[str, Any] = field(default_factory=dict)
    # Share of its training rows that a trial is scored on; None: it is reported.
    held_out: float | None = None

    @functools.cached_property
    def key(self) -> str:
        """The hash of everything that decides the numbers of the run."""
        return hashlib.sha256(f"{config_hash(self.config)} {self.held_out}".encode()).hexdigest()

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        purpose = "run" if self.held_out is None else "choice"
        # Ten digits keep apart what a comparison will ever hold; whether it is the same run the whole key decides.
        return f"{plain_name(self.label)}-{purpose}-seed{self.seed}-{self.key[:10]}"


@dataclass(frozen=True)
class RecordFolder:
    """The folder of ``bilora compare``, with a record in each run's folder: ``runs/<name>/comparison.json``."""

    path: Path
    # A run that diverges is a result too, without a score.
    keeps_failures: bool = True

    def finished(self, job: Job) -> Record | None:
        """Return the record of a job that was run before with the same settings, or None."""
        file = self.path / "runs" / job.name / RECORD
        if not file.is_file():
            return None
        record: Record = json.loads(file.read_text(encoding="utf-8"))
        return record if record["key"] == job.key else None

    def run_folder(self, job: Job) -> Path:
        """Return the run's folder in ``unfinished/``, where one that was interrupted goes on."""
        return self.path / "unfinished" / job.name

    def keep(self, job: Job, record: Record) -> None:
        """Write the record and move the run to ``runs/`` as a whole."""
        # What is in runs/ is finished, at whatever moment the process ends.
        write_json(self.run_folder(job) / RECORD, record)
        (self.path / "runs").mkdir(exist_ok=True)
        self.run_folder(job).rename(self.path / "runs" / job.name)


@dataclass(frozen=True)
class ResultsFolder:
    """The folder of ``benchmarks/run_*.py``, with a row per finished run in ``results.jsonl``."""

    path: Path
    rows: Mapping[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    # It ends the comparison.
    keeps_failures: bool = False

    @classmethod
    def opened(cls, path: Path, config: SeveralRuns) -> ResultsFolder:
        """Return the folder with the rows of finished runs."""
        file = path / RESULTS
        text = file.read_bytes() if file.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        # A process that was killed left half a line, behind which the next one would be written.
        if whole != text:
            os.truncate(file, len(whole))
        rows = {(row["method"], row["seed"]): row for row in map(json.loads, whole.splitlines())}
        runs = {} if config.run.allow_config_change else {(run.method, run.seed): run for run in config.runs}
        for (method, seed), row in rows.items():
            if (method, seed) in runs and row["config_sha256"] != config_hash(runs[method, seed]):
                raise CheckpointError(
                    f"{file}: {method}, seed {seed}, was run with other settings than these; give the same ones, or "
                    "--allow-config-change to keep it"
                )
        return cls(path, rows)

    def finished(self, job: Job) -> Record | None:
        """Return the record of a job that was run before, or None."""
        row = self.rows.get((job.config.method, job.seed))
        return None if row is None else {"row": row}

    def run_folder(self, job: Job) -> Path:
        """Return ``<method>-seed<seed>``."""
        return self.path / run_name(job.config.method, job.seed)

    def keep(self, job: Job, record: Record) -> None:
        """Add the row of a finished run; afterwards it is on the disk."""
        with (self.path / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record["row"], allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


JobFolder = RecordFolder | ResultsFolder


def run_name(method: str, seed: int) -> str:
    """Return the name of a run's folder."""
    return f"{plain_name(method)}-seed{seed}"
