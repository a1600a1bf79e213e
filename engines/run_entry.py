"""Entering the folder of one run: a new one, or one that an interrupted process left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from bilora.engines.checkpoint_files import MANIFEST, checkpoints
from bilora.engines.config import RunConfig
from bilora.engines.config_change import check_changes
from bilora.engines.halved_batch import LEVELS
from bilora.engines.metrics_file import finite_or_null
from bilora.engines.settings import resolved
from bilora.engines.strict_json import load_json
from bilora.errors import CheckpointError

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


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, an empty one where there is none.

    Raises:
        CheckpointError: The file is not YAML, or no mapping.
    """
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no settings")
    return found


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML with the keys in the order given."""
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON; numbers that it cannot hold become null."""
    path.write_text(json.dumps(finite_or_null(value), allow_nan=False, indent=2) + "\n", encoding="utf-8")
