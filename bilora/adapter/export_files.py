"""The files of an exported LoRA adapter, and the folder they may go to."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from bilora.errors import SettingsError

# Marks a folder as written by an export, so that a later one may replace it.
REPORT_NAME = "bilora_export.json"


def check_folder(folder: str | Path) -> Path:
    """Return the folder of an export as a path, after a look that nothing in it would be lost.

    Args:
        folder: A folder that is new, empty, or holds an earlier export.

    Returns:
        The path; the folder is made if need be.

    Raises:
        SettingsError: It is a file, or holds something else.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_folder(folder) == Path(folder)
        True
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise SettingsError(f"folder {str(folder)!r} is a file; give the name of a folder to write the adapter to")
    path.mkdir(parents=True, exist_ok=True)
    held = sorted(each.name for each in path.iterdir())
    if held and REPORT_NAME not in held:
        raise SettingsError(
            f"folder {str(folder)!r} holds {', '.join(held[:5])} and is not an earlier export; "
            "give a new or an empty folder"
        )
    return path


def write_export(folder: Path, *, tensors: dict[str, Tensor], config: PeftConfig, report: dict[str, Any]) -> None:
    """Write weights, settings and report; each file appears whole or not at all.

    Args:
        folder: What ``check_folder`` returned.
        tensors: The weights, by key of the file.
        config: What becomes ``adapter_config.json``.
        report: What becomes ``bilora_export.json``.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        new = Path(scratch)
        # Tensors may share storage (tied heads) or lie transposed; the format takes neither.
        whole = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        save_file(whole, new / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        (new / CONFIG_NAME).write_text(_strict_json(config.to_dict()), encoding="utf-8")
        (new / REPORT_NAME).write_text(_strict_json(report), encoding="utf-8")
        # The mark first: what follows an interruption is then still known as an export.
        for name in (REPORT_NAME, SAFETENSORS_WEIGHTS_NAME, CONFIG_NAME):
            os.replace(new / name, folder / name)


def _strict_json(content: dict[str, Any]) -> str:
    # Sets, as of target_modules, have no order of their own: equal exports shall be equal files.
    ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in content.items()}
    return json.dumps(ordered, indent=2, sort_keys=True, allow_nan=False) + "\n"
