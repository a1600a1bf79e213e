"""Which checkpoint a run may go on from: the newest one that is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from bilora.engines.checkpoints.files import FORMAT, MANIFEST, TENSORS, TREES, checkpoints, file_sha256, manifest_sha256
from bilora.errors import CheckpointError
from bilora.files.state_tree import Packed, unpack
from bilora.files.strict_json import load_json


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
