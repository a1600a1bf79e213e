"""Where a command writes; what is there already is not touched, unless the user says so of an earlier run."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import yaml

from bilora.engines.checkpoints.config_change import LEVELS, check_changes
from bilora.engines.checkpoints.files import checkpoints
from bilora.errors import CheckpointError, SettingsError
from bilora.files.formats import load_json, read_yaml, write_yaml
from bilora.files.lock import NAMES as LOCKS
from bilora.files.lock import locked
from bilora.files.whole_folders import MANIFEST
from bilora.runs.config import RunConfig
from bilora.settings.sections import resolved

CONFIGS = ("config.yaml", "train.yaml")
"""What says that a folder is that of a run; removed last, so that a removal that was cut short can be repeated."""

KEYS = frozenset(("method", "steps", "hypergradient", "lower", "upper"))
"""Settings that every config of a run has, by which it is told from another program's."""

COMMAND = ("results.jsonl", "loss-*.png", "report.html", "report-figures/*.png")
"""What the command writes beside its runs."""

RUN = (
    *("metrics.jsonl", "times.jsonl", "values.jsonl", "all_results.json", "trainer_state.json", "label_map.json"),
    *("split.json", "spectrum.json", "learned.json", "predictions-*.jsonl", "diverged.json", "skipped-*.json"),
    *("outputs.txt", "references.txt", "scores.json", "tensorboard/events.out.tfevents.*"),
)
ADAPTER = (
    *("adapter_config.json", "adapter_model.safetensors", "config.json", "README.md"),
    *("base_fingerprint.json", "bilora_task.json", "bilora_export.json"),
)
CHECKPOINT = ("manifest.json", "state.json", "state.safetensors", *(f"adapter/{name}" for name in ADAPTER))


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, or of a command that made several.

    Example:
        >>> is_run(Path("no-such-folder"))
        False
    """
    return any(_keys(folder / name) >= KEYS for name in CONFIGS)


def remove_run(folder: Path) -> list[Path]:
    """Remove what an earlier run wrote in a folder, and return what is left there.

    Nothing is taken away behind a link, and no file that has another name than those of a run.

    Args:
        folder: For which :func:`is_run` holds.
    """
    runs = [each for each in folder.glob("*-seed*") if _is_plain(each, folder) and is_run(each)]
    own = [path for each in (*runs, folder) for path in _files(each) if _is_plain(path, folder)]
    own += [folder / name for name in CONFIGS if _is_plain(folder / name, folder)]
    for path in own:
        path.unlink(missing_ok=True)
    parents = {parent for path in own for parent in path.parents if folder in parent.parents}
    for parent in sorted(parents, key=lambda each: len(each.parts), reverse=True):
        if not any(parent.iterdir()):
            parent.rmdir()
    return sorted(folder.iterdir())


def _files(run: Path) -> Iterator[Path]:
    """Yield the files of one run, its settings last, and those of the command where it is the command's folder."""
    places = {"": (*RUN, *COMMAND), "adapter/": ADAPTER, "lora/": ADAPTER, "checkpoint-*/": CHECKPOINT}
    for place, names in places.items():
        for name in names:
            yield from sorted(run.glob(place + name))
    yield from (run / name for name in CONFIGS if (run / name).is_file())


def _is_plain(path: Path, folder: Path) -> bool:
    """Return whether a path below the folder is there, and neither it nor what it lies in is a link."""
    inside = [path, *(parent for parent in path.parents if folder in parent.parents)]
    return path.exists() and not any(each.is_symlink() for each in inside)


def _keys(path: Path) -> set[str]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return set()
    return {str(key) for key in found} if isinstance(found, dict) else set()


def make_output_folder(chosen: str | None, *, task: str, root: Path = Path("runs"), overwrite: bool = False) -> Path:
    """Create and return the output folder.

    Args:
        chosen: The folder; None takes the next free ``root/<task>-N``.
        task: Name of the task, for the default.
        root: Where default folders go.
        overwrite: Whether the files of an earlier run in the chosen folder go; no other file does.

    Raises:
        SettingsError: The chosen folder holds something (with ``overwrite``: and no run), is a file, is in use, or
            cannot be created.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> [make_output_folder(None, task="mrpc", root=root).name for _ in range(2)]
        ['mrpc-1', 'mrpc-2']
    """
    if chosen is None:
        return next(folder for number in itertools.count(1) if (folder := _made(root / f"{task}-{number}")) is not None)
    folder = Path(chosen)
    if folder.is_dir() and any(path.name not in LOCKS for path in folder.iterdir()):
        if not overwrite:
            raise SettingsError(
                f"output folder {folder} is not empty; name another one, move what is in it away, or go on in it with "
                f"--resume {folder}; --overwrite removes an earlier run's files from it"
            )
        _clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output folder {folder} cannot be created: {error}") from error
    return folder


def _clear(folder: Path) -> None:
    """Remove the earlier run in a folder, and say what stays."""
    if not is_run(folder):
        raise SettingsError(
            f"output folder {folder} is not empty and holds no earlier run (no config.yaml of one), and --overwrite "
            "removes a run's files only; name another folder"
        )
    with locked(folder):
        try:
            left = [path.name for path in remove_run(folder) if path.name not in LOCKS]
        except OSError as error:
            raise SettingsError(f"output folder {folder}: the earlier run cannot be removed: {error}") from error
    stays = f"; not of a run, and still there: {', '.join(left)}" if left else ""
    print(f"note: the earlier run in {folder} is removed{stays}")


def _made(folder: Path) -> Path | None:
    """Create the folder; None where another process was faster or an earlier run has it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return None
    except OSError as error:
        raise SettingsError(f"output folder {folder} cannot be created: {error}; give --output") from error
    return folder


def plain_name(text: str) -> str:
    """Return a label as part of a file name: letters, digits, ``-``, ``_`` and ``.`` alone.

    Example:
        >>> plain_name("package.module:VARIANT")
        'package.module-VARIANT'
    """
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in text)


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
