"""Entering the folder of one run: a new one, or one that an interrupted process left."""

from __future__ import annotations

from pathlib import Path

from bilora.engines.checkpoints.config_change import check_changes
from bilora.engines.checkpoints.files import MANIFEST, checkpoints
from bilora.engines.checkpoints.smaller_batches import LEVELS
from bilora.errors import CheckpointError
from bilora.files.strict_json import load_json, read_yaml, write_yaml
from bilora.runs.config import RunConfig
from bilora.settings.checked import resolved

BATCHES = ("batch_size", "accumulation")


def enter_run_folder(folder: Path, config: RunConfig, *, processes: int = 1) -> bool:
    """Make the folder of a run, or check that what is in it is of this run; return whether there is one to go on with.

    A run that was interrupted before its first checkpoint begins again; what it had measured goes.

    Args:
        folder: The folder of the run.
        config: The config of this run alone.
        processes: How many processes train together. Where another number wrote the checkpoints, batches may differ:
            whether those of this run fit is decided where the checkpoint is read.

    Raises:
        CheckpointError: The run in it has other settings.
    """
    settings = resolved(config)
    if not folder.exists():
        folder.mkdir(parents=True)
        write_yaml(folder / "config.yaml", settings)
        return False
    before = read_yaml(folder / "config.yaml")
    if before and _processes(folder) not in (None, processes):
        batches = {level: {name: settings[level][name] for name in BATCHES} for level in LEVELS}
        before |= {level: before[level] | own for level, own in batches.items() if isinstance(before.get(level), dict)}
    try:
        # A run that was killed before it had written its settings has nothing to compare.
        check_changes(before or settings, settings, allow=config.allow_config_change)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    write_yaml(folder / "config.yaml", settings)
    if not checkpoints(folder):
        for name in ("metrics.jsonl", "times.jsonl", "values.jsonl"):
            (folder / name).unlink(missing_ok=True)
    return True


def _processes(folder: Path) -> int | None:
    """Return how many processes wrote the newest checkpoint, None where there is none that says so."""
    for _, checkpoint in checkpoints(folder):
        try:
            return int(load_json(checkpoint / MANIFEST)["processes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is damaged, and will be skipped
    return None
