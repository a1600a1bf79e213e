"""Several methods on one task with several seeds: runs, results, plots and a table."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilora.compare.folder import Row, add_row, comparison_folder, finished_rows, keep_config
from bilora.errors import InterruptedRun
from bilora.files.lock import locked
from bilora.processes.processes import ONE_PROCESS, Processes
from bilora.report.figures import loss_curves
from bilora.report.read_run import read_run
from bilora.runs.config import RunConfig
from bilora.runs.rows import load_run_rows
from bilora.runs.run import Prepared, prepare, run_once
from bilora.runs.table import print_table


def compare(config: RunConfig, processes: Processes = ONE_PROCESS) -> list[dict[str, Any]]:
    """Run every method with every seed; each row of results is on the disk before the next run starts.

    Args:
        config: The config.
        processes: The processes that train together; the first alone holds the folder, writes and prints.

    Returns:
        The rows of results.
    """
    rows = load_run_rows(config)
    processes.first_only(lambda: _print_notices(rows.notices))
    prepared = prepare(config, rows, processes=processes)
    processes.first_only(lambda: _print_notices(prepared.notices))
    folder = processes.first_only(lambda: comparison_folder(config, task=rows.task.name))
    with processes.entered_by_first(locked(folder)):
        done = processes.first_only(lambda: finished_rows(folder, config))
        processes.first_only(lambda: keep_config(folder, config))
        try:
            results = _run_all(config, prepared, folder, done, processes)
        except InterruptedRun as error:
            raise InterruptedRun(f"{error}; go on with --resume {folder}", number=error.number) from error
    processes.first_only(lambda: _tell(config, prepared, results, folder))
    return results


def _run_all(
    config: RunConfig, prepared: Prepared, folder: Path, done: Mapping[tuple[str, int], Row], processes: Processes
) -> list[dict[str, Any]]:
    """Run what is not done yet, and return the rows of all."""
    results: list[dict[str, Any]] = []
    # Methods alternate within a seed, so that a machine that slows down slows all of them down.
    for seed in config.seeds:
        for method in config.method:
            run = run_name(method, seed)
            if processes.is_first:
                print(f"{run}: {'finished before' if (method, seed) in done else 'training'}", flush=True)
            if (method, seed) in done:
                results.append(done[method, seed])
                continue
            row = run_once(config, prepared, method=method, seed=seed, folder=folder / run, processes=processes)
            results.append(row)
            processes.first_only(functools.partial(add_row, folder, row))
    return results


def _tell(config: RunConfig, prepared: Prepared, results: list[dict[str, Any]], folder: Path) -> None:
    rows = prepared.rows
    name = rows.task.name
    for method in config.method:
        drawing = loss_curves([read_run(folder / run_name(method, seed)) for seed in config.seeds])
        drawing.write_png(folder / f"loss-{_plain(method)}.png")
    print_table(results, title=f"{name}: {len(config.seeds)} seeds, {next(iter(rows.validation))} split")
    print(f"results, plots and adapters: {folder}")


def run_name(method: str, seed: int) -> str:
    """Return the name of a run's folder.

    Example:
        >>> run_name("package.module:VARIANT", 3)
        'package.module-VARIANT-seed3'
    """
    return f"{_plain(method)}-seed{seed}"


def _plain(method: str) -> str:
    """Return a method's name as part of a file name: that of a user's own holds dots and a colon."""
    return method.replace(":", "-")


def _print_notices(notices: tuple[str, ...]) -> None:
    for notice in notices:
        print(f"note: {notice}")
