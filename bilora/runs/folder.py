"""Where a command writes; what is there already is not touched, unless the user says so of an earlier run."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bilora.engines.checkpoints.config_change import LEVELS, check_changes
from bilora.engines.checkpoints.files import checkpoints
from bilora.errors import CheckpointError, SettingsError, first_ten
from bilora.files.formats import load_json, read_yaml, unfinished_name, write_yaml
from bilora.files.lock import NAMES as LOCKS
from bilora.files.lock import locked
from bilora.files.whole_folders import MANIFEST
from bilora.runs.config import RunConfig
from bilora.settings.sections import resolved

# What says that a folder is that of a run; removed last, so that a removal that was cut short can be repeated.
CONFIGS = ("config.yaml", "train.yaml")

# Settings that every config of a run has, by which it is told from another program's.
KEYS = frozenset(("method", "steps", "hypergradient", "lower", "upper"))

# Every file is removed by name, and never a folder as a whole: what the user has put beside a run is not a run's.
COMMAND = ("results.jsonl", "loss-*.png", "report.html", "report-figures/*.png")  # beside the command's runs
RUN = (
    *("metrics.jsonl", "times.jsonl", "values.jsonl", "all_results.json", "trainer_state.json", "label_map.json"),
    *("finished.json", "road.json", "label_issues.csv", "label_issues.csv.parts/*.safetensors"),
    *("split.json", "spectrum.json", "learned.json", "predictions-*.jsonl", "diverged.json", "skipped-*.json"),
    *("outputs.txt", "references.txt", "scores.json", "tensorboard/events.out.tfevents.*"),
)
ADAPTER = (
    *("adapter_config.json", "adapter_model.safetensors", "config.json", "README.md"),
    *("base_fingerprint.json", "bilora_task.json", "bilora_export.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "chat_template.jinja"),
)
CHECKPOINT = ("manifest.json", "state.json", "state.safetensors", *(f"adapter/{name}" for name in ADAPTER))


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, or of a command that made several."""
    for name in CONFIGS:
        # Another program's file of that name may hold anything, or be closed to us.
        with contextlib.suppress(CheckpointError, OSError):
            if read_yaml(folder / name).keys() >= KEYS:
                return True
    return False


def remove_run(folder: Path) -> list[Path]:
    """Remove what an earlier run wrote in a folder, and return what is left there."""
    runs = [path for path in folder.glob("*-seed*") if _is_plain(path, folder) and is_run(path)]
    # The folder itself comes last, and with it the settings that make this a run's folder.
    files = [path for run in (*runs, folder) for path in _files(run) if _is_plain(path, folder)]
    for path in files:
        path.unlink(missing_ok=True)
    parents = {parent for path in files for parent in path.parents if folder in parent.parents}
    # From below, so that a folder is empty by the time it is looked at.
    for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        if not any(parent.iterdir()):
            parent.rmdir()
    return sorted(folder.iterdir())


def _files(run: Path) -> Iterator[Path]:
    """Yield the files of one run, its settings last, and those of the command where it is the command's folder."""
    patterns = {"": (*RUN, *COMMAND), "adapter/": ADAPTER, "lora/": ADAPTER, "checkpoint-*/": CHECKPOINT}
    for parent, names in patterns.items():
        for name in names:
            yield from sorted(run.glob(parent + name))
    yield from (run / name for name in CONFIGS if (run / name).is_file())


def _is_plain(path: Path, folder: Path) -> bool:
    """Return whether a path below the folder is there, and neither it nor what it lies in is a link."""
    # What a link leads to may be another run's, or be kept elsewhere because it is to stay.
    inside = [path, *(parent for parent in path.parents if folder in parent.parents)]
    return path.exists() and not any(part.is_symlink() for part in inside)


def make_output_folder(output: str | None, *, task: str, root: Path = Path("runs"), overwrite: bool = False) -> Path:
    """Create and return the output folder; None takes the next free ``root/<task>-N``."""
    if output is None:
        return next(folder for number in itertools.count(1) if (folder := _made(root / f"{task}-{number}")) is not None)
    folder = check_output_folder(output, overwrite=overwrite)
    if folder.is_dir() and overwrite:
        _clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output folder {folder} cannot be created: {error}") from error
    return folder


def check_output_folder(output: str, *, overwrite: bool = False) -> Path:
    """Return the output folder, and touch nothing; raise SettingsError where it cannot be made, or holds something."""
    folder = Path(output)
    try:
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    except OSError as error:  # a name that is too long, or a folder that is closed to us
        raise SettingsError(f"output folder {folder} cannot be created: {error}; give --output elsewhere") from error
    if not above.is_dir():
        raise SettingsError(f"output folder {folder} cannot be created: {above} is no folder; give --output elsewhere")
    try:
        # A file without a name. The permissions alone do not tell: root has all of them, in /proc too.
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        reason = f"nothing can be written in {above} ({error.strerror})"
        raise SettingsError(f"output folder {folder} cannot be created: {reason}; give --output elsewhere") from error
    if is_unused(folder):
        return folder
    if not overwrite:
        raise SettingsError(
            f"output folder {folder} is not empty; name another one, move what is in it away, or go on in it with "
            f"--resume {folder}; --overwrite removes an earlier run's files from it"
        )
    if not is_run(folder):
        raise SettingsError(
            f"output folder {folder} is not empty and holds no earlier run (no config.yaml of one), and --overwrite "
            "removes a run's files only; name another folder"
        )
    return folder


def is_unused(folder: Path) -> bool:
    """Return whether a folder is not there, or holds nothing but what a process that was killed at its start leaves."""
    left = {*LOCKS, *(unfinished_name(folder / name).name for name in CONFIGS)}
    return not folder.is_dir() or all(path.name in left for path in folder.iterdir())


def _clear(folder: Path) -> None:
    """Remove the earlier run in a folder, and say what stays."""
    if is_unused(folder):
        return
    # A run that is still going on holds the lock, and must not lose its files.
    with locked(folder):
        try:
            left = [path.name for path in remove_run(folder) if path.name not in LOCKS]
        except OSError as error:
            raise SettingsError(f"output folder {folder}: the earlier run cannot be removed: {error}") from error
    stays = f"; not of a run, and still there: {first_ten(left)}" if left else ""
    print(f"note: the earlier run in {folder} is removed{stays}")


def _made(folder: Path) -> Path | None:
    """Create the folder; None where another process was faster or an earlier run has it."""
    # Made without a look whether it is there: between look and making, another process could take it.
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return None
    except OSError as error:
        raise SettingsError(f"output folder {folder} cannot be created: {error}; give --output") from error
    return folder


def plain_name(text: str) -> str:
    """Return a label as part of a file name: letters, digits, ``-``, ``_`` and ``.`` alone."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in text)


def enter_run_folder(folder: Path, config: RunConfig, *, processes: int = 1) -> bool:
    """Make the folder of a run, or check that it is of this one; return whether there is a run to go on with."""
    settings = resolved(config)
    if not folder.exists():
        folder.mkdir(parents=True)
        write_yaml(folder / "config.yaml", settings)
        return False
    before = read_yaml(folder / "config.yaml")
    if before and _processes(folder) not in (None, processes):
        # Where another number of processes wrote the checkpoints, batches may differ: whether those of this run fit is
        # decided where the checkpoint is read.
        batches = {level: {name: settings[level][name] for name in ("batch_size", "accumulation")} for level in LEVELS}
        before |= {level: before[level] | now for level, now in batches.items() if isinstance(before.get(level), dict)}
    try:
        # A run that was killed before it had written its settings has nothing to compare.
        check_changes(before or settings, settings, allow=config.allow_config_change)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'config.yaml'}: {error}") from error
    write_yaml(folder / "config.yaml", settings)
    if not checkpoints(folder):
        # A run that was interrupted before its first checkpoint begins again; what it had measured goes.
        for name in ("metrics.jsonl", "times.jsonl", "values.jsonl"):
            (folder / name).unlink(missing_ok=True)
    return True


def _processes(folder: Path) -> int | None:
    """Return how many processes wrote the newest checkpoint, None where there is none that says so."""
    for _, checkpoint in checkpoints(folder):
        try:
            return int(load_json(checkpoint / MANIFEST)["processes"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue  # it is damaged, and will be skipped
    return None
