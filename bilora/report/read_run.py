"""The folder of a run, read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bilora.artifacts.scored_on import UPPER, VALIDATION, numbers_in
from bilora.engines.callbacks.files import read_times
from bilora.errors import DataError
from bilora.runs.results import read_predictions

NEEDED = ("config.yaml", "metrics.jsonl")
"""What a folder must hold to be that of a run."""


@dataclass(frozen=True)
class ReadRun:
    """What a run has written.

    Args:
        folder: Its folder.
        label: What it is called in a table: its label in a comparison, or its method.
        seed: Its seed.
        config: All its settings.
        results: Its ``all_results.json``; empty for a run that has not ended.
        steps: The lines of its steps.
        validations: The lines of its validations.
        times: Seconds since the start, by step.
        values: Step and values of each layer at every reading; empty for methods without singular values.
        spectrum: Magnitudes and kept rank of each layer; empty without singular values.
        predictions: Label and prediction of every validation row, where the kind of task keeps that for text.
    """

    folder: Path
    label: str
    seed: int
    config: dict[str, Any]
    results: dict[str, Any]
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    times: dict[int, float]
    values: list[tuple[int, dict[str, list[float]]]]
    spectrum: list[dict[str, Any]]
    predictions: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Label and seed."""
        return f"{self.label}, seed {self.seed}"

    @property
    def scored_on(self) -> str:
        """Whether its numbers are of validation rows or of D2, see :mod:`bilora.artifacts.scored_on`."""
        return UPPER if any(UPPER in line for line in self.validations) else VALIDATION

    @property
    def metric(self) -> str | None:
        """The headline metric, once the run has ended."""
        return self.results.get("metric")


def read_run(folder: Path) -> ReadRun:
    """Return what a run has written into its folder; only its config and its metrics must be there.

    Raises:
        DataError: The folder is not that of a run, or a file in it is not what it should be.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} is not the folder of a run: it has no {' and no '.join(missing)}")
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    lines = read_lines(folder / "metrics.jsonl")
    about = _object(folder / "comparison.json")
    readings = {line["step"]: line["layers"] for line in read_lines(folder / "values.jsonl")}
    return ReadRun(
        folder=folder,
        label=str(about.get("label", config["method"][0])),
        seed=int(config["seeds"][0]),
        config=config,
        results=_object(folder / "all_results.json"),
        steps=[line for line in lines if "lower_loss" in line],
        validations=[line for line in lines if numbers_in(line) is not None],
        times=read_times(folder / "times.jsonl"),
        values=sorted(readings.items()),
        spectrum=_read(folder / "spectrum.json") or [],
        predictions=_predictions(folder),
    )


def read_runs(folders: Iterable[Path]) -> list[ReadRun]:
    """Return all runs in folders, each that of a run, of a comparison or of a program that compares methods.

    The trials of a comparison, among which its settings were chosen, are left out.

    Raises:
        DataError: There is no run in a folder.
    """
    found: dict[Path, ReadRun] = {}
    for folder in folders:
        runs = [read_run(each) for each in _run_folders(folder)]
        order = _labels_in_order(folder)
        runs.sort(key=lambda run: (order.index(run.label) if run.label in order else len(order), run.label, run.seed))
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; none where there is no file.

    A last line that was cut off, as by a kill, is left out.

    Raises:
        DataError: A line is not JSON.

    Example:
        >>> read_lines(Path("no-such-file"))
        []
    """
    if not path.is_file():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(whole, start=1) if line]


def _run_folders(folder: Path) -> list[Path]:
    if (folder / "metrics.jsonl").is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    below = sorted(path.parent for pattern in ("*", "runs/*") for path in folder.glob(f"{pattern}/metrics.jsonl"))
    reported = [each for each in below if _object(each / "comparison.json").get("purpose") != "choose"]
    if not reported:
        raise DataError(f"{folder} holds no run: neither it nor a folder in it has a metrics.jsonl")
    return reported


def _labels_in_order(folder: Path) -> list[str]:
    """Return the methods of a comparison or a program in the order of its results; none for a single run."""
    rows = read_lines(folder / "results.jsonl")
    return list(dict.fromkeys(str(row.get("label", row.get("method"))) for row in rows))


def _predictions(folder: Path) -> list[dict[str, Any]]:
    """Return the predictions on the set that gave the score, which is the first one that was written."""
    files = sorted(folder.glob("predictions-*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    rows = read_predictions(files[0]) if files else None
    if not rows or not {"label", "prediction"} <= set(rows[0]):
        return []
    return rows


def _object(path: Path) -> dict[str, Any]:
    return _read(path) or {}


def _read(path: Path) -> Any:
    return _parsed(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is not JSON: {error}") from error
