"""The output folder of a command: a new one, or that of an earlier command that goes on in it."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bilora.errors import SettingsError
from bilora.files.formats import write_yaml
from bilora.runs.config import RunConfig
from bilora.runs.folder import CONFIGS, check_output_folder, make_output_folder
from bilora.runs.several_runs import SeveralRuns
from bilora.settings.sections import resolved

CONFIG = "config.yaml"


def command_folder(config: RunConfig, *, task: str) -> Path:
    """Return the output folder, which is new or that of the command to be resumed; ``task`` names a default folder."""
    if config.resume is None:
        return make_output_folder(config.output, task=task, overwrite=config.overwrite)
    if config.resume == "auto":
        if config.output is None:
            raise SettingsError("resume is 'auto', which goes on in the folder that --output names; give --output")
        # The settings are written before anything else: without them no run was begun that could go on.
        return Path(config.output) if _is_begun(Path(config.output)) else make_output_folder(config.output, task=task)
    folder = resumed_folder(["--resume", config.resume])
    assert folder is not None  # neither auto nor empty
    if config.output is not None and Path(config.output) != folder:
        raise SettingsError(f"output is {config.output}, but the run goes on in {folder}; leave --output out")
    return folder


def check_folder(config: RunConfig) -> None:
    """Refuse an output folder that :func:`command_folder` would refuse, before anything is read."""
    goes_on = config.resume is not None and (config.resume != "auto" or _is_begun(Path(config.output or "")))
    if config.output is not None and not goes_on:
        check_output_folder(config.output, overwrite=config.overwrite)


def resumed_folder(argv: Sequence[str]) -> Path | None:
    """Return the folder that a command line names after ``--resume``, None where it names none or ``auto``."""
    # Read before the command line is parsed, since the folder's own settings stand in front of its words.
    names = [following for word, following in itertools.pairwise([*argv, ""]) if word == "--resume"]
    names += [word.partition("=")[2] for word in argv if word.startswith("--resume=")]
    # Whether --resume misses its value is for the parser to say.
    if not names or names[-1] in ("", "auto") or names[-1].startswith("--"):
        return None
    folder = Path(names[-1])
    if not _is_begun(folder):
        raise SettingsError(
            f"resume: {folder} is not the output folder of an earlier command (no {' or '.join(CONFIGS)} in it); give "
            "the folder that this command printed, or leave --resume out"
        )
    return folder


def _is_begun(folder: Path) -> bool:
    # Not the path's own method, which raises for a name that is too long.
    return any(os.path.isfile(folder / name) for name in CONFIGS)


def words_of_then(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options for what an earlier version's file of settings leaves out, and had another default then."""
    entry = settings.get("hypergradient")
    choice = {"name": entry} if isinstance(entry, str) else entry
    if isinstance(choice, dict) and choice.get("name") == "darts" and "scale" not in choice:
        yield "--hypergradient.scale=one"


def keep_config(path: Path, config: RunConfig | SeveralRuns) -> None:
    """Write the settings of a command, for ``--resume`` to read."""
    run = config.run if isinstance(config, SeveralRuns) else config
    # Not where it writes, since a folder may move.
    of_this_call = {"output": None, "overwrite": False, "resume": None, "allow_config_change": False, "debug": False}
    settings = resolved(run) | of_this_call
    if isinstance(config, SeveralRuns):
        # A file with both seed and seeds would say two things.
        del settings["seed"]
        settings |= {"method": config.method, "seeds": config.seeds}
    write_yaml(path, settings)
