"""The files of an earlier run, told from a user's own by where they are and what they are called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

CONFIGS = ("config.yaml", "train.yaml")
"""What says that a folder is that of a run; removed last, so that a removal that was cut short can be repeated."""

KEYS = frozenset(("method", "seeds", "steps", "hypergradient", "lower", "upper"))
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
    places = {
        "": (*RUN, *COMMAND),
        "adapter/": ADAPTER,
        "lora/": ADAPTER,
        "checkpoint-*/": CHECKPOINT,
    }
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
