"""What a run left behind, opened again: the model with its adapter, its tokenizer, and its task."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from peft import PeftModel

from bilora.artifacts import adapter_files
from bilora.errors import DataError
from bilora.models.pretrained import Tokenizer, load_model, load_tokenizer
from bilora.processes.devices import choose_device
from bilora.tasks.kinds import read_task
from bilora.tasks.task import AnyTask, Inference

ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Args:
        adapter: Folder of the adapter.
        task: What it was trained for.
        tokenizer: The tokenizer, and where the base model is.
        model: The model with the adapter on it, in eval mode.
        max_length: Largest number of tokens of a row.
    """

    adapter: Path
    task: AnyTask
    tokenizer: Tokenizer
    model: PeftModel
    max_length: int

    @property
    def inference(self) -> Inference:
        """The model and its tokenizer, as evaluations take them."""
        return Inference(self.model, self.tokenizer.own)


def open_trained(
    place: str, *, model: str | None = None, device: str = "auto", task_type: str | None = None
) -> Trained:
    """Return the trained model of a run, or of an adapter.

    Args:
        place: Folder of a run, or of an adapter that a run or an export wrote.
        model: The base model, where it is no longer where it was in training; None takes the one of the training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        task_type: ``package.module:NAME`` of the user's own kind of task that it was trained for.

    Raises:
        DataError: There is no adapter, its base cannot be found, or its weights do not fit or are not finite.
    """
    adapter = find_adapter(place)
    task, max_length = read_task(adapter, task_type=task_type)
    task = task.with_settings(_task_settings(adapter.parent))
    tokenizer = load_tokenizer(model or _base_of(adapter), task, max_length=max_length)
    trained = load_adapter(adapter, tokenizer, task)
    return Trained(adapter, task, tokenizer, trained.to(choose_device(device)).eval(), max_length)


def load_adapter(adapter: Path, tokenizer: Tokenizer, task: AnyTask) -> PeftModel:
    """Return a fresh base model with the adapter of a folder on it."""
    base = load_model(tokenizer, task).model
    return adapter_files.load_adapter(base, adapter, base_name=str(tokenizer.place))


def find_adapter(place: str) -> Path:
    """Return the folder of the adapter of a run, or of an adapter itself.

    Raises:
        DataError: There is none.
    """
    folder = Path(place)
    for each in (folder / "adapter", folder):
        if (each / ADAPTER_FILE).is_file():
            return each
    runs = sorted({path.parent.parent.name for path in folder.glob(f"*/adapter/{ADAPTER_FILE}")})
    cure = f"it has the runs {', '.join(runs)}: name one of them" if runs else "give the folder of a run or an adapter"
    what = "has neither adapter/ nor adapter_config.json" if folder.is_dir() else "is no folder"
    raise DataError(f"{place} {what}; {cure}")


def run_config_of(adapter: Path) -> dict[str, Any] | None:
    """Return what ``config.yaml`` of an adapter's run says, or None for an adapter outside of its run."""
    path = adapter.parent / "config.yaml"
    if not path.is_file():
        return None
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return read if isinstance(read, dict) else None


def _task_settings(run: Path) -> dict[str, Any]:
    config = run_config_of(run / "adapter")
    return {} if config is None else dict(config.get("task_settings") or {})


def _base_of(adapter: Path) -> str:
    config = json.loads((adapter / ADAPTER_FILE).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise DataError(f"{adapter / ADAPTER_FILE} names no base model; give --model")
    return str(base)
