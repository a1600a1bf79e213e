"""The folders of a trainer: the one that it trains in, and the one that it saves, as a run's adapter folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from bilora import BiloraConfig, check_saved
from bilora.artifacts.adapter_files import save_adapter
from bilora.artifacts.fingerprint import versions
from bilora.artifacts.model_card import CardFacts, write_card
from bilora.artifacts.scored_on import numbers_in
from bilora.engines.checkpoints.files import checkpoints
from bilora.engines.training.result import FitResult
from bilora.errors import CheckpointError, SettingsError
from bilora.tasks.kinds import hub_names_of
from bilora.tasks.task import AnyTask, HubNames
from bilora.tasks.task_files import write_task


@dataclass(frozen=True)
class Untold:
    """A task of which only the card's heading is known."""

    name: str
    hub_names: HubNames | None


def enter_folder(folder: Path, resume: bool | str | Path | None) -> tuple[Path, bool | Path]:
    """Return the folder of a training, made where it is not there, and the checkpoint as ``fit`` wants it.

    Raises:
        SettingsError: There is an earlier training in it, and it is not resumed.
        CheckpointError: It is to be resumed, and there is no checkpoint.
    """
    if resume is True and not checkpoints(folder):
        raise CheckpointError(f"output_dir {folder} holds no checkpoint; set save_strategy, and begin without one")
    if not resume and (folder / "metrics.jsonl").exists():
        raise SettingsError(
            f"output_dir {folder} holds an earlier training; name another one, move it away, or go on from its "
            "checkpoints with train(resume_from_checkpoint=True)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder, Path(resume) if isinstance(resume, str | Path) else bool(resume)


def kept_scores(lines: Sequence[Mapping[str, Any]], result: FitResult) -> Mapping[str, Any]:
    """Return the metrics of the parameters that a training ended with; none where they were not evaluated."""
    step = result.steps if result.best_step is None else result.best_step
    metrics = [numbers_in(line) for line in lines if line["step"] == step]
    return next((numbers for numbers in reversed(metrics) if numbers is not None), {})


def save_trained(
    model: PeftModel, folder: Path, *, facts: CardFacts, tokenizer: Any, task: AnyTask | None, max_length: int
) -> None:
    """Write the adapter with its base's fingerprint, the model's config, the card, the tokenizer and the task.

    Args:
        model: The model.
        folder: Where to.
        facts: What the card says.
        tokenizer: None writes none.
        task: None writes no ``bilora_task.json``, without which ``bilora evaluate`` does not know what to read.
        max_length: Largest number of tokens of a row, for that file.
    """
    if isinstance(model.peft_config[model.active_adapter], BiloraConfig):
        check_saved(model)
    place = save_adapter(model, folder)
    model.config.save_pretrained(str(place))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(place))
    if task is not None:
        write_task(place, task, max_length=max_length)
    write_card(place, facts)


def longest(*sets: Sequence[Mapping[str, Any]]) -> int:
    """Return the largest number of tokens of a row.

    Example:
        >>> longest([{"input_ids": [1, 2]}], [{"input_ids": [1]}])
        2
    """
    return max((len(row.get("input_ids", ())) for rows in sets for row in rows), default=0) or 1


def card_facts(
    model: PeftModel,
    *,
    task: AnyTask | None,
    method: str,
    sizes: Mapping[str, int],
    scores: Mapping[str, Any],
    seed: int,
) -> CardFacts:
    """Return what the card of a trainer's model says.

    Args:
        model: The model.
        task: What it has learned; None says of it what the adapter's config does.
        method: How it was trained.
        sizes: Number of rows by data set.
        scores: Metrics of the evaluation rows; empty where none were taken.
        seed: Of the training.
    """
    config = model.peft_config[model.active_adapter]
    names = hub_names_of(str(config.task_type)) if task is None else task.hub_names
    return CardFacts(
        task=Untold("own data", names) if task is None else task,
        base=str(config.base_model_name_or_path or ""),
        method=method,
        sizes=sizes,
        scores=scores,
        seed=seed,
        versions=versions(),
        is_plain_lora=not isinstance(config, BiloraConfig),
        labels=int(model.config.num_labels) if names is not None and names.has_head else 0,
    )


def check_task(task: AnyTask, model: PeftModel) -> None:
    """Refuse a task that names another number of classes than the model has outputs.

    Raises:
        SettingsError: With both numbers.
    """
    wanted = task.model_settings.get("num_labels", model.config.num_labels)
    if wanted != model.config.num_labels:
        raise SettingsError(
            f"task {task.name!r} has {wanted} outputs, and the model has {model.config.num_labels}; give the model "
            f"num_labels={wanted}, or the task that it was trained for"
        )
