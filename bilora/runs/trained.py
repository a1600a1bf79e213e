"""What a run left behind, opened again: the model with its adapter, its tokenizer, and its task."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from bilora.artifacts import adapter_files
from bilora.errors import DataError, first_ten
from bilora.files.formats import load_yaml
from bilora.models.pretrained import Tokenizer, load_model, load_tokenizer
from bilora.processes.devices import choose_device
from bilora.settings.arguments import check_arguments
from bilora.settings.lookup import told_by
from bilora.tasks.kinds import TASK_FILE, read_task
from bilora.tasks.task import AnyTask, Inference

ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Trained:
    """A trained model, its tokenizer and what it was trained for."""

    adapter: Path
    task: AnyTask
    tokenizer: Tokenizer
    model: PeftModel  # with the adapter on it, in eval mode
    max_length: int  # of a row, in tokens

    @property
    def inference(self) -> Inference:
        """The model and its tokenizer, as evaluations take them."""
        return Inference(self.model, self.tokenizer.own)


def open_trained(
    folder: str | Path, *, model: str | None = None, device: str = "auto", task_type: str | None = None
) -> Trained:
    """Return the trained model in the folder of a run or of an adapter; ``model`` says where its base is now."""
    check_arguments(open_trained, locals())
    # Before anything is read, which takes longer.
    on = choose_device(device)
    adapter = _find_adapter(Path(folder))
    # The folder may come from somebody else, also where no command line says what is trusted.
    with told_by([] if task_type is None else [task_type]):
        task, max_length = read_task(adapter, task_type=task_type)
        # The settings of decoding and scoring stand in the run's config alone.
        task = task.with_settings(_task_settings(adapter.parent))
        tokenizer = _tokenizer_of(adapter, model, task, max_length=max_length)
        trained = load_adapter(adapter, tokenizer, task)
    # In eval mode: dropout would make every answer another one.
    return Trained(adapter, task, tokenizer, trained.to(on).eval(), max_length)


def load_adapter(adapter: Path, tokenizer: Tokenizer, task: AnyTask) -> PeftModel:
    """Return a fresh base model with the adapter of a folder on it."""
    base = load_model(tokenizer, task).model
    return adapter_files.load_adapter(base, adapter, base_name=tokenizer.place)


def _find_adapter(folder: Path) -> Path:
    """Return the folder of the adapter of a run, or of an adapter itself."""
    for adapter in (folder / "adapter", folder):
        if os.path.isfile(adapter / ADAPTER_FILE):
            return adapter
    if os.path.isdir(folder / "adapter"):
        raise DataError(f"{folder / 'adapter' / ADAPTER_FILE} is missing, or is no file; copy the run again")
    is_folder = os.path.isdir(folder)
    runs = sorted({path.parent.parent.name for path in folder.glob(f"*/adapter/{ADAPTER_FILE}")}) if is_folder else []
    cure = f"it has the runs {first_ten(runs)}: name one of them" if runs else "give the folder of a run or an adapter"
    what = "has neither adapter/ nor adapter_config.json" if is_folder else "is no folder"
    raise DataError(f"{folder} {what}; {cure}")


def _task_settings(run: Path) -> dict[str, Any]:
    """Return the settings of the task in a run's ``config.yaml``, none for an adapter outside of its run."""
    path = run / "config.yaml"
    # A file of another program, beside an adapter that was moved there, may hold anything.
    try:
        config = load_yaml(path) if path.exists() else None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    settings = (config.get("task_settings") or {}) if isinstance(config, dict) else {}
    if not isinstance(settings, dict):
        raise DataError(f"{path}: task_settings is {settings!r}; it must be a mapping")
    return settings


def _tokenizer_of(adapter: Path, model: str | None, task: AnyTask, *, max_length: int) -> Tokenizer:
    """Return the tokenizer of the base model that is given, or else of the one that the adapter names."""
    base = adapter_files.read_config(adapter).base_model_name_or_path if model is None else model
    if not base or not isinstance(base, str):
        raise DataError(f"{adapter / ADAPTER_FILE} names no base model; give --model")
    try:
        return load_tokenizer(base, task, max_length=max_length)
    except DataError as error:
        # Of the task is the longest row, for which the model may be too short.
        asked = TASK_FILE if model is not None else f"{ADAPTER_FILE}, {TASK_FILE} beside it"
        raise DataError(f"{adapter / asked}: {error}") from error
