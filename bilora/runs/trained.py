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
from bilora.settings.arguments import check_arguments
from bilora.settings.lookup import told_by
from bilora.tasks.kinds import read_task
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
    adapter = _find_adapter(Path(folder))
    # The folder may come from somebody else, also where no command line says what is trusted.
    with told_by([] if task_type is None else [task_type]):
        task, max_length = read_task(adapter, task_type=task_type)
        # The settings of decoding and scoring stand in the run's config alone.
        task = task.with_settings(_task_settings(adapter.parent))
        tokenizer = load_tokenizer(model or _base_of(adapter), task, max_length=max_length)
        trained = load_adapter(adapter, tokenizer, task)
    # In eval mode: dropout would make every answer another one.
    return Trained(adapter, task, tokenizer, trained.to(choose_device(device)).eval(), max_length)


def load_adapter(adapter: Path, tokenizer: Tokenizer, task: AnyTask) -> PeftModel:
    """Return a fresh base model with the adapter of a folder on it."""
    base = load_model(tokenizer, task).model
    return adapter_files.load_adapter(base, adapter, base_name=tokenizer.place)


def _find_adapter(folder: Path) -> Path:
    """Return the folder of the adapter of a run, or of an adapter itself."""
    for adapter in (folder / "adapter", folder):
        if (adapter / ADAPTER_FILE).is_file():
            return adapter
    runs = sorted({path.parent.parent.name for path in folder.glob(f"*/adapter/{ADAPTER_FILE}")})
    cure = f"it has the runs {', '.join(runs)}: name one of them" if runs else "give the folder of a run or an adapter"
    what = "has neither adapter/ nor adapter_config.json" if folder.is_dir() else "is no folder"
    raise DataError(f"{folder} {what}; {cure}")


def _task_settings(run: Path) -> dict[str, Any]:
    """Return the settings of the task in a run's ``config.yaml``, none for an adapter outside of its run."""
    path = run / "config.yaml"
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    # A file of another program, beside an adapter that was moved there, may hold anything.
    return dict(config.get("task_settings") or {}) if isinstance(config, dict) else {}


def _base_of(adapter: Path) -> str:
    config = json.loads((adapter / ADAPTER_FILE).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise DataError(f"{adapter / ADAPTER_FILE} names no base model; give --model")
    return str(base)
