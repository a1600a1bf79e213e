"""A checkpoint on the disk: written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from bilora.errors import ResourceError
from bilora.files.state_tree import Packed
from bilora.files.strict_json import dump_json

FORMAT = 1
MANIFEST, TREES, TENSORS = "manifest.json", "state.json", "state.safetensors"
FOLDER = re.compile(r"checkpoint-(\d+)")
UNFINISHED = re.compile(r"(checkpoint-\d+)\.tmp-.+")
REPLACED = ".tmp-replaced-"
MEGABYTE = 1e6


def write_checkpoint(
    run_folder: Path,
    step: int,
    *,
    parts: Mapping[str, Packed],
    about: Mapping[str, Any],
    more: Callable[[Path], None] | None = None,
) -> Path:
    """Write ``checkpoint-<step>`` and return it.

    Everything goes to a temporary folder; the manifest, with the sha256 of every file, comes last, all is flushed
    to the disk, and only then is the folder given its name. A process killed at any moment leaves no folder of that
    name that is not whole.

    Args:
        run_folder: Where checkpoints of the run lie.
        step: Lower steps made.
        parts: The state, by part; ``state.json`` holds the trees of all, ``state.safetensors`` their tensors.
        about: What the manifest says beside: config, fingerprints, versions.
        more: Writes further files into the folder it is given.

    Raises:
        ResourceError: The disk is full; nothing is left of the attempt, and earlier checkpoints are as they were.
    """
    needed = sum(each.nbytes for packed in parts.values() for each in packed.tensors.values())
    check_space(run_folder, needed)
    final = run_folder / f"checkpoint-{step}"
    unfinished = run_folder / f"checkpoint-{step}.tmp-{os.getpid()}"
    tensors = unfinished / TENSORS
    with _told_if_full(run_folder, needed), _removed_on_failure(unfinished):
        unfinished.mkdir()
        (unfinished / TREES).write_text(dump_json({name: each.tree for name, each in parts.items()}), encoding="utf-8")
        # Two files for all parts, not two a part: flushing a file to the disk takes longer than writing it.
        save_file(
            {f"{name}/{key}": each for name, part in parts.items() for key, each in part.tensors.items()}, tensors
        )
        if more is not None:
            more(unfinished)
        digests = {name: each.digest() for name, each in parts.items()}
        manifest = {"format": FORMAT, "step": step, **about, "parts": digests, "files": _files(unfinished)}
        sealed = {**manifest, "sha256": manifest_sha256(manifest)}
        (unfinished / MANIFEST).write_text(dump_json(sealed), encoding="utf-8")
        for path in (*sorted(unfinished.rglob("*")), unfinished):
            _flush(path)
        if final.exists():  # of a run that was resumed from an earlier step; it stays until the new one is whole
            os.replace(final, run_folder / f"{final.name}{REPLACED}{os.getpid()}")
        os.replace(unfinished, final)
        _flush(run_folder)
    remove_unfinished(run_folder)
    return final


def checkpoints(run_folder: Path) -> list[tuple[int, Path]]:
    """Return step and folder of every checkpoint, whole or not, the newest first.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11.tmp-1"):
        ...     (folder / name).mkdir()
        >>> [step for step, _ in checkpoints(folder)]
        [10, 9]
    """
    if not run_folder.is_dir():
        return []
    found = [(FOLDER.fullmatch(path.name), path) for path in run_folder.iterdir()]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def remove_unfinished(run_folder: Path) -> list[str]:
    """Remove what a killed process left of a checkpoint, and return its names; nobody else may be writing there.

    One that was whole and about to be replaced gets its name back, unless its successor has it.
    """
    left = [(match, path) for path in sorted(run_folder.iterdir()) if (match := UNFINISHED.fullmatch(path.name))]
    for match, path in left:
        final = run_folder / match[1]
        if path.name.startswith(f"{match[1]}{REPLACED}") and not final.exists():
            os.replace(path, final)
        else:
            shutil.rmtree(path)
    return [path.name for _, path in left]


def prune(run_folder: Path, *, keep: int, newest: int) -> None:
    """Remove all but the ``keep`` newest checkpoints up to step ``newest``, which has just been written."""
    old = [path for step, path in checkpoints(run_folder) if step <= newest][keep:]
    for path in old:
        # Renamed first: what is half removed must not be taken for a checkpoint.
        going = run_folder / f"{path.name}.tmp-removed-{os.getpid()}"
        os.replace(path, going)
        shutil.rmtree(going)


def check_space(folder: Path, needed: int) -> None:
    """Raise if the disk under ``folder`` has less room than ``needed`` bytes.

    Raises:
        ResourceError: With both numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _full(folder, needed, free)


def _full(folder: Path, needed: int, free: int) -> ResourceError:
    return ResourceError(
        f"the disk under {folder} is full: a checkpoint needs {needed / MEGABYTE:.1f} MB ({needed} bytes), "
        f"{free / MEGABYTE:.1f} MB are free; free some or write elsewhere. Earlier checkpoints are as they were"
    )


@contextlib.contextmanager
def _told_if_full(folder: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors raises a class of its own, with the system's words in it.
        number = getattr(error, "errno", None)
        if number not in (errno.ENOSPC, errno.EDQUOT) and "No space left" not in str(error):
            raise
        raise _full(folder, needed, shutil.disk_usage(folder).free) from error


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "size": path.stat().st_size}
        for path in paths
    }


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """Return the hash that a manifest carries of all else in it.

    Example:
        >>> manifest_sha256({"step": 1, "sha256": "not counted"}) == manifest_sha256({"step": 1})
        True
    """
    rest = {name: each for name, each in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
