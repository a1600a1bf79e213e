"""A checkpoint on the disk: written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bilora.errors import CheckpointError, ResourceError
from bilora.files.formats import dump_json, load_json
from bilora.files.state import Packed, unpack

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
    _remove([path for step, path in checkpoints(run_folder) if step <= newest][keep:])


def remove_later(run_folder: Path, step: int) -> None:
    """Remove the checkpoints after a step, to which the run has gone back with smaller batches."""
    _remove([path for later, path in checkpoints(run_folder) if later > step])


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        # Renamed first: what is half removed must not be taken for a checkpoint.
        going = folder.with_name(f"{folder.name}.tmp-removed-{os.getpid()}")
        os.replace(folder, going)
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


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are those that were written.

    Attributes:
        folder: Where it lies.
        manifest: What it says about itself.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Lower steps made."""
        return int(self.manifest["step"])

    def states(self) -> dict[str, Any]:
        """Return the state of every part, tensors on the CPU.

        Raises:
            CheckpointError: A file cannot be read, or lacks something.
        """
        return {name: unpack(each, part=name) for name, each in read_parts(self.folder).items()}


def read_parts(folder: Path) -> dict[str, Packed]:
    """Return what lies on the disk, by part.

    Raises:
        CheckpointError: A file cannot be read.
    """
    try:
        trees = load_json(folder / TREES)
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    found: dict[str, Packed] = {str(name): Packed({}, tree) for name, tree in trees.items()}
    for name, each in tensors.items():
        part, _, key = name.partition("/")
        found.setdefault(part, Packed({}, None)).tensors[key] = each
    return found


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return a checkpoint after comparing every file of it with its manifest.

    Raises:
        CheckpointError: A file is missing, damaged, or none of the checkpoint's.
    """
    reason = fault(folder)
    if reason is not None:
        raise CheckpointError(f"checkpoint {folder} cannot be used: {reason}")
    return Checkpoint(folder, load_json(folder / MANIFEST))


def newest_checkpoint(run_folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and why each newer one was skipped.

    Args:
        run_folder: Where checkpoints of the run lie.

    Returns:
        None in place of a checkpoint if there is none at all.

    Raises:
        CheckpointError: There are checkpoints and none verifies; all of them are listed.
    """
    skipped: list[str] = []
    for _, folder in checkpoints(run_folder):
        reason = fault(folder)
        if reason is None:
            return Checkpoint(folder, load_json(folder / MANIFEST)), skipped
        skipped.append(f"{folder.name}: {reason}")
    if skipped:
        raise CheckpointError(f"no checkpoint in {run_folder} can be used:\n  " + "\n  ".join(skipped))
    return None, []


def fault(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, None if nothing is."""
    if folder.is_symlink() or not folder.is_dir():
        return "it is not a folder"
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        return f"{MANIFEST} is missing, so it was not written to its end"
    try:
        manifest = load_json(path)
        files = {str(name): dict(each) for name, each in manifest["files"].items()}
        digests = {str(name): str(each) for name, each in manifest["parts"].items()}
        format_, _, sealed = manifest["format"], int(manifest["step"]), manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    if format_ != FORMAT:
        return f"it is of format {format_!r}, and this version reads format {FORMAT}"
    if sealed != manifest_sha256(manifest):
        return f"{MANIFEST} is not as it was written (its sha256 differs)"
    unnamed = [name for name in (TREES, TENSORS) if name not in files]
    if unnamed:
        return f"{MANIFEST} lacks {unnamed[0]}"
    reason = _file_fault(folder, files)
    return reason if reason is None else reason + _parts_named(folder, digests)


def _parts_named(folder: Path, digests: Mapping[str, str]) -> str:
    """Return which parts of the state are not as they were written, as far as the files can still be read."""
    try:
        found = {name: each.digest() for name, each in read_parts(folder).items()}
    except (CheckpointError, AttributeError, TypeError):
        return ""
    missing = [f"{name} is missing" for name in digests if name not in found]
    changed = [f"{name} has changed" for name, each in found.items() if digests.get(name) != each]
    return "".join(f"; {each}" for each in (*missing, *changed))


def _file_fault(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    for name, said in files.items():
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            return f"{MANIFEST} names {name!r}, which is outside the checkpoint"
        path = folder / relative
        if any(each.is_symlink() for each in (path, *path.parents) if folder in each.parents):
            return f"{name} is a link"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != said.get("size"):
            return f"{name} has {path.stat().st_size} bytes, not {said.get('size')}"
        if file_sha256(path) != said.get("sha256"):
            return f"{name} is not as it was written (its sha256 differs)"
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    foreign = sorted(here - set(files) - {MANIFEST})
    return f"{foreign[0]} does not belong to it" if foreign else None
