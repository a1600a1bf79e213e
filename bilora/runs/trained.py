"""What a run left behind, opened again: the model with its adapter, its tokenizer, and its task."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from bilora.artifacts import adapter_files
from bilora.data.tables import Record
from bilora.errors import SHORT, DataError, SettingsError, first_ten
from bilora.files.formats import load_yaml
from bilora.models.pretrained import Tokenizer, load_model, load_tokenizer
from bilora.processes.devices import choose_device
from bilora.settings.arguments import check_arguments
from bilora.settings.lookup import told_by
from bilora.tasks.kinds import TASK_FILE, read_task
from bilora.tasks.task import AnyTask, BaseTask, Inference

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

    def predict(self, texts: Sequence[Any]) -> list[Any]:
        """Return the prediction for each text, or pair of texts: the name of a class, several names, or a number.

        Args:
            texts: A text each, a pair of texts, a list of tokens, or a mapping with the columns of the training file.

        Raises:
            DataError: A text is none, or empty; its number is told.
        """
        return [answer["prediction"] for answer in self.answers(texts)]

    def answers(self, texts: Sequence[Any]) -> list[dict[str, Any]]:
        """Return what ``bilora predict`` writes of each text: ``prediction``, and ``probabilities`` by class."""
        if not isinstance(self.task, BaseTask):
            raise SettingsError(f"task {self.task.name!r} is not predicted from texts; take bilora predict with a file")
        if isinstance(texts, str) or len(texts) == 0:
            raise DataError(f"texts is {SHORT.repr(texts)}; give a list of texts")
        records: list[Record] = [(number, self._row(text, number), []) for number, text in enumerate(texts, start=1)]
        rows = self.task.unlabelled_rows(records, source="texts")
        found, notices = self.task.answers(self.inference, rows, max_length=self.max_length)
        for notice in notices:
            warnings.warn(notice, RuntimeWarning, stacklevel=2)
        return found

    def _row(self, text: Any, number: int) -> dict[str, Any]:
        if isinstance(text, Mapping):
            return dict(text)
        fields = self.task.columns.text_columns  # type: ignore[attr-defined]  # of a BaseTask
        if len(fields) == 1:
            return {fields[0]: text}
        if isinstance(text, str) or not isinstance(text, Sequence) or len(text) != len(fields):
            raise DataError(
                f"texts, number {number} is {SHORT.repr(text)}; the model was trained on {len(fields)} columns: give "
                f"({', '.join(fields)}) of each row"
            )
        return dict(zip(fields, text, strict=True))


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
    config = adapter_files.read_config(adapter)
    base = config.base_model_name_or_path if model is None else model
    if not base or not isinstance(base, str):
        raise DataError(f"{adapter / ADAPTER_FILE} names no base model; give --model")
    try:
        # A folder that the base was moved to has no revisions.
        revision = None if model is not None or os.path.isdir(base) else config.revision
        return load_tokenizer(base, task, max_length=max_length, revision=revision)
    except DataError as error:
        # Of the task is the longest row, for which the model may be too short.
        asked = TASK_FILE if model is not None else f"{ADAPTER_FILE}, {TASK_FILE} beside it"
        raise DataError(f"{adapter / asked}: {error}") from error
