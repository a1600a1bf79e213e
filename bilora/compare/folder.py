"""The output folder of a comparison: a new one, or one to go on in."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilora.errors import CheckpointError, SettingsError
from bilora.files.formats import write_yaml
from bilora.runs.config import RunConfig
from bilora.runs.folder import make_output_folder
from bilora.settings.sections import resolved

CONFIG, RESULTS = "config.yaml", "results.jsonl"

Row = dict[str, Any]


def comparison_folder(config: RunConfig, *, task: str) -> Path:
    """Return the output folder, which is new or that of the command to be resumed.

    Args:
        config: Says which.
        task: Name of the task, for the default folder.

    Raises:
        SettingsError: The folder holds something else, or nothing to resume.
    """
    if config.resume is None:
        return make_output_folder(config.output, task=task, overwrite=config.overwrite)
    if config.resume == "auto":
        if config.output is None:
            raise SettingsError("resume is 'auto', which goes on in the folder that --output names; give --output")
        begun = (Path(config.output) / CONFIG).is_file()
        return Path(config.output) if begun else make_output_folder(config.output, task=task)
    folder = resumed_folder(["--resume", config.resume])
    assert folder is not None  # neither auto nor empty
    if config.output is not None and Path(config.output) != folder:
        raise SettingsError(f"output is {config.output}, but the run goes on in {folder}; leave --output out")
    return folder


def resumed_folder(argv: Sequence[str]) -> Path | None:
    """Return the folder that a command line names after ``--resume``, None where it names none or ``auto``.

    Raises:
        SettingsError: It is not the output folder of an earlier command.

    Example:
        >>> resumed_folder(["--resume", "auto", "--output", "out"]) is None
        True
    """
    words = [*argv, ""]
    named = [words[index + 1] for index, word in enumerate(argv) if word == "--resume"]
    named += [word.partition("=")[2] for word in argv if word.startswith("--resume=")]
    if not named or named[-1] in ("", "auto") or named[-1].startswith("--"):
        return None
    folder = Path(named[-1])
    if not (folder / CONFIG).is_file():
        raise SettingsError(f"resume: {folder} is not the output folder of an earlier command (no {CONFIG} in it)")
    return folder


def keep_config(folder: Path, config: RunConfig) -> None:
    """Write the settings of the command, for ``--resume`` to read; not where it writes, since a folder may move."""
    kept = dataclasses.replace(
        config, output=None, overwrite=False, resume=None, allow_config_change=False, debug=False
    )
    write_yaml(folder / CONFIG, resolved(kept))


def finished_rows(folder: Path, config: RunConfig) -> dict[tuple[str, int], Row]:
    """Return the rows of finished runs, by method and seed, and cut off a line that a killed process left half.

    Raises:
        CheckpointError: A run was made with other settings, and the user has not said that they may change.
    """
    path = folder / RESULTS
    if not path.exists():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(path, len(whole))
    rows = {(row["method"], row["seed"]): row for row in map(json.loads, whole.splitlines())}
    for method, seed in rows:
        if method not in config.method or config.allow_config_change:
            continue
        if rows[method, seed]["config_sha256"] != config.sha256(method, seed):
            raise CheckpointError(
                f"{path}: {method}, seed {seed}, was run with other settings than these; give the same ones, or say "
                "--allow-config-change to keep it"
            )
    return rows


def add_row(folder: Path, row: Row) -> None:
    """Add the row of a finished run; afterwards it is on the disk."""
    with (folder / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
