"""A checkpoint on the disk: written whole or not at all."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bilora.errors import CheckpointError, ResourceError
from bilora.files.formats import dump_json, load_json, plain_file
from bilora.files.state import Packed
from bilora.files.whole_folders import MANIFEST, REPLACED, UNFINISHED, is_full, sha256_of, write_folder

FORMAT = 1
TREES, TENSORS = "state.json", "state.safetensors"
FOLDER = re.compile(r"checkpoint-(\d+)")
UNFINISHED_FOLDER = re.compile(rf"(checkpoint-\d+){re.escape(UNFINISHED)}.+")
MEGABYTE = 1e6


def write_checkpoint(
    run_folder: Path,
    step: int,
    *,
    parts: Mapping[str, Packed],
    about: Mapping[str, Any],
    more: Callable[[Path], None] | None = None,
) -> Path:
    """Write ``checkpoint-<step>``, whole or not at all, with ``about`` in its manifest and what ``more`` writes."""
    # Before anything is written: half a checkpoint would take the last room of the disk for nothing.
    needed = sum(tensor.nbytes for packed in parts.values() for tensor in packed.tensors.values())
    check_space(run_folder, needed)
    final = run_folder / f"checkpoint-{step}"

    def write(unfinished: Path) -> None:
        trees = {name: packed.tree for name, packed in parts.items()}
        (unfinished / TREES).write_text(dump_json(trees), encoding="utf-8")
        # Two files for all parts, not two per part: flushing a file to the disk takes longer than writing it.
        tensors = {f"{name}/{key}": tensor for name, part in parts.items() for key, tensor in part.tensors.items()}
        save_file(tensors, unfinished / TENSORS)
        if more is not None:
            more(unfinished)

    def manifest(files: Mapping[str, Any]) -> dict[str, Any]:
        digests = {name: packed.digest() for name, packed in parts.items()}
        content = {"format": FORMAT, "step": step, **about, "parts": digests, "files": files}
        return {**content, "sha256": manifest_sha256(content)}

    try:
        write_folder(final, write, manifest=manifest)
    except (OSError, SafetensorError) as error:
        if is_full(error):
            raise _full(run_folder, needed) from error
        raise
    return final


def checkpoints(run_folder: Path) -> list[tuple[int, Path]]:
    """Return step and folder of every checkpoint, whole or not, the newest first."""
    # A folder that is not there matches nothing.
    matches = [(FOLDER.fullmatch(path.name), path) for path in run_folder.glob("checkpoint-*")]
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def remove_unfinished(run_folder: Path) -> None:
    """Remove what a killed process left of a checkpoint, while nobody else writes there."""
    for path in sorted(run_folder.iterdir()):
        match = UNFINISHED_FOLDER.fullmatch(path.name)
        if match is None:
            continue
        final = run_folder / match[1]
        # Killed between two renames: this one is whole, and gets its name back unless its successor has it.
        if path.name.startswith(f"{match[1]}{REPLACED}") and not final.exists():
            os.replace(path, final)
        else:
            shutil.rmtree(path)


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
    """Raise ResourceError if the disk under ``folder`` has less room than ``needed`` bytes."""
    if shutil.disk_usage(folder).free < needed:
        raise _full(folder, needed)


def _full(folder: Path, needed: int) -> ResourceError:
    free = shutil.disk_usage(folder).free
    return ResourceError(
        f"the disk under {folder} is full: a checkpoint needs {needed / MEGABYTE:.1f} MB ({needed} bytes), "
        f"{free / MEGABYTE:.1f} MB are free; free some or write elsewhere. Earlier checkpoints are as they were"
    )


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """Return the hash that a manifest carries of everything else in it."""
    # Sorted: the hash is of the values, in whatever order a file holds them.
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are those that were written."""

    folder: Path
    manifest: Mapping[str, Any]


def read_parts(folder: Path) -> dict[str, Packed]:
    """Return the packed state of every part; raise CheckpointError where a file cannot be read."""
    try:
        trees = load_json(folder / TREES)
        # The reader of tensors waits for ever at a pipe, and takes no signal meanwhile.
        tensors = load_file(plain_file(folder / TENSORS))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    # A part without tensors has a tree alone; tensors without a tree are found when they are unpacked.
    parts: dict[str, Packed] = {str(name): Packed({}, tree) for name, tree in trees.items()}
    for name, tensor in tensors.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, Packed({}, None)).tensors[key] = tensor
    return parts


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return a checkpoint whose files are those of its manifest; raise CheckpointError where one is not."""
    if (reason := fault(folder)) is not None:
        raise CheckpointError(f"checkpoint {folder} cannot be used: {reason}")
    return Checkpoint(folder, load_json(folder / MANIFEST))


def newest_checkpoint(run_folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, None if there is none at all, and why each newer one was skipped."""
    skipped: list[str] = []
    for _, folder in checkpoints(run_folder):
        if (reason := fault(folder)) is None:
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
        files = {str(name): dict(entry) for name, entry in manifest["files"].items()}
        digests = {str(name): str(digest) for name, digest in manifest["parts"].items()}
        format_, _, sealed = manifest["format"], int(manifest["step"]), manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return f"{MANIFEST} cannot be read"
    if format_ != FORMAT:
        return f"it is of format {format_!r}, and this version reads format {FORMAT}"
    # Before the files are compared with it: else a changed manifest would blame a file that is as it was.
    if sealed != manifest_sha256(manifest):
        return f"{MANIFEST} is not as it was written (its sha256 differs)"
    for name in (TREES, TENSORS):
        if name not in files:
            return f"{MANIFEST} lacks {name}"
    reason = _file_fault(folder, files)
    return reason and reason + _changed_parts(folder, digests)


def _changed_parts(folder: Path, digests: Mapping[str, str]) -> str:
    # As far as the files can still be read, so that the user knows whether the optimizer or only a metric is lost.
    try:
        read = {name: packed.digest() for name, packed in read_parts(folder).items()}
    except (CheckpointError, AttributeError, TypeError):
        return ""
    missing = [f"{name} is missing" for name in digests if name not in read]
    changed = [f"{name} has changed" for name, digest in read.items() if digests.get(name) != digest]
    return "".join(f"; {words}" for words in (*missing, *changed))


def _file_fault(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    for name, entry in files.items():
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            return f"{MANIFEST} names {name!r}, which is outside the checkpoint"
        path = folder / relative
        # Checkpoints may come from others: a link could have a file outside read as if it were part of this one.
        if any(part.is_symlink() for part in (path, *path.parents) if folder in part.parents):
            return f"{name} is a link"
        if not path.is_file():
            return f"{name} is missing"
        # The size first, which is free; a file cut short by a full disk shows there.
        if path.stat().st_size != entry.get("size"):
            return f"{name} has {path.stat().st_size} bytes, not {entry.get('size')}"
        if sha256_of(path) != entry.get("sha256"):
            return f"{name} is not as it was written (its sha256 differs)"
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    foreign = sorted({path.relative_to(folder).as_posix() for path in paths} - set(files) - {MANIFEST})
    return f"{foreign[0]} does not belong to it" if foreign else None
