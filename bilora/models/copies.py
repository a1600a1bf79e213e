"""A model's files on the way to another machine, where they are read from a copy."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from bilora.files.whole_folders import cached_folder
from bilora.models.pretrained import model_place, only_local
from bilora.settings.lookup import TRUST, is_told

# What others keep beside a model and nothing here reads; and the pickles, which are read only when that is told.
UNREAD = ("*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf")
PICKLES = ("*.bin",)


@dataclass(frozen=True)
class ModelCopy:
    """The model that a config names, and the folder with a copy of its files, where that is what is read."""

    model: str | None
    folder: str | None = None


def model_files(model: str | None, *, revision: str | None = None) -> dict[str, Path]:
    """Return the files of a model that are read, by name: those of its folder, or of its hub id in the hub's cache."""
    place = Path(model_place(model))
    unread = UNREAD if is_told(TRUST) else (*UNREAD, *PICKLES)
    if not place.is_dir():
        # No folders inside: another format, or the original weights, may be in one.
        ignored = [*unread, "*/*"]
        local = only_local(str(place))
        place = Path(snapshot_download(str(place), revision=revision, ignore_patterns=ignored, local_files_only=local))
    files = (path for path in sorted(place.iterdir()) if path.is_file())
    return {path.name: path for path in files if not any(path.match(pattern) for pattern in unread)}


def laid_out(digests: Mapping[str, str], read: Callable[[str], bytes | memoryview]) -> Path:
    """Return a folder of the cache with files of these SHA-256; those that are not there yet are read and written."""
    key = hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:16]

    def write(folder: Path) -> None:
        for name in digests:
            (folder / name).write_bytes(read(name))

    return cached_folder(f"model-{key}", write)
