"""The folders of a trainer: the one that it trains in, and the one that it saves, as a run's adapter folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from transformers.trainer_utils import has_length

from bilora import BiloraConfig, check_saved
from bilora.artifacts.adapter_files import save_adapter
from bilora.artifacts.fingerprint import versions
from bilora.artifacts.model_card import CardFacts, write_card
from bilora.artifacts.scored_on import numbers_in
from bilora.engines.checkpoints.files import checkpoints
from bilora.engines.training.result import FitResult
from bilora.errors import CheckpointError, SettingsError
from bilora.tasks.kinds import hub_names_of, write_task
from bilora.tasks.task import AnyTask

if TYPE_CHECKING:
    from bilora.engines.trainer.trainer import BilevelTrainer


def enter_folder(folder: Path, resume: bool | str | Path | None) -> tuple[Path, bool | Path]:
    """Return the folder of a training, made where it is not there, and the checkpoint as ``fit`` takes it."""
    if resume is True and not checkpoints(folder):
        raise CheckpointError(f"output_dir {folder} holds no checkpoint; set save_strategy, and begin without one")
    if not resume and (folder / "metrics.jsonl").exists():
        raise SettingsError(
            f"output_dir {folder} holds an earlier training; name another one, move it away, or go on from its "
            "checkpoints with train(resume_from_checkpoint=True)"
        )
    # Only now: a refused training leaves no empty folder behind.
    folder.mkdir(parents=True, exist_ok=True)
    return folder, Path(resume) if isinstance(resume, str | Path) else bool(resume)


def kept_scores(lines: Sequence[Mapping[str, Any]], result: FitResult) -> Mapping[str, Any]:
    """Return the metrics of the parameters that a training ended with; none where they were not evaluated."""
    step = result.steps if result.best_step is None else result.best_step
    metrics = [numbers_in(line) for line in lines if line["step"] == step]
    return next((numbers for numbers in reversed(metrics) if numbers is not None), {})


def save_trained(trainer: BilevelTrainer, folder: Path) -> None:
    """Write the adapter with its base's fingerprint, the model's config, the card, the tokenizer and any task."""
    model, task = trainer.model, trainer.task
    config = model.peft_config[model.active_adapter]
    if isinstance(config, BiloraConfig):
        check_saved(model)
    folder = save_adapter(model, folder)
    if trainer.processing_class is not None:
        trainer.processing_class.save_pretrained(str(folder))
    evaluated = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"eval": trainer.eval_dataset}
    sets: dict[str, Any] = {"train": trainer.train_dataset, "upper": trainer.upper_dataset, **evaluated}
    sets = {name: rows for name, rows in sets.items() if rows is not None}
    if task is not None:
        # The command cuts rows that it reads itself at this length; it cannot know at which these were cut.
        lengths = [len(row.get("input_ids", ())) for rows in sets.values() for row in rows]
        write_task(folder, task, max_length=trainer.max_length or max(lengths, default=0) or 1)
    names = hub_names_of(str(config.task_type)) if task is None else task.hub_names
    facts = CardFacts(
        task="own data" if task is None else task.name,
        hub_names=names,
        base=str(config.base_model_name_or_path or ""),
        revision=config.revision,
        method=trainer.variant.name,
        sizes={name: len(rows) for name, rows in sets.items() if has_length(rows)},
        scores=trainer.scores,
        seed=trainer.args.seed,
        versions=versions(),
        is_plain_lora=not isinstance(config, BiloraConfig),
        labels=int(model.config.num_labels) if names is not None and names.has_head else 0,
    )
    write_card(folder, facts)


def check_task(task: AnyTask, model: PeftModel) -> None:
    """Refuse a task that names another number of classes than the model has outputs."""
    outputs = task.model_settings.get("num_labels", model.config.num_labels)
    if outputs != model.config.num_labels:
        raise SettingsError(
            f"task {task.name!r} has {outputs} outputs, and the model has {model.config.num_labels}; give the model "
            f"num_labels={outputs}, or the task that it was trained for"
        )
