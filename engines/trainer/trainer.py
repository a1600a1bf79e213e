"""A trainer in the names that users of transformers know, on the road of :func:`~bilora.engines.training.fit.fit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput, TrainOutput

from bilora import BiloraConfig
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.callbacks.progress import Progress
from bilora.engines.callbacks.trackers import ReportTo
from bilora.engines.trainer.arguments import BilevelTrainingArguments
from bilora.engines.trainer.data import Outputs, collate_for, model_rows, run_model
from bilora.engines.trainer.files import (
    card_facts,
    check_task,
    enter_folder,
    kept_scores,
    longest,
    save_trained,
    write_state,
)
from bilora.engines.training.fit import fit
from bilora.errors import SettingsError
from bilora.files.formats import read_lines
from bilora.models.pretrained import quiet_peft
from bilora.problems.catalog import find_variant
from bilora.problems.levels.betty_problem import autocast_dtype
from bilora.problems.variant import Variant
from bilora.problems.variants.bilora import BiloraSettings
from bilora.processes.devices import choose_device
from bilora.settings.sections import resolved
from bilora.tasks.task import AnyTask

Dataset = Iterable[Mapping[str, Any]]
ComputeMetrics = Callable[[EvalPrediction], Mapping[str, float]]


class BilevelTrainer:
    """Train, evaluate and predict with a model that has an adapter.

    Args:
        model: A model with the variant's adapter on it, or one without, and ``peft_config``.
        args: The settings.
        train_dataset: Tokenised rows with ``labels`` or ``label``; columns that the model does not take are left out.
        eval_dataset: The same, for evaluation; it is not trained on.
        compute_metrics: From predictions and labels to metrics by name.
        processing_class: The tokenizer, which pads batches and is saved beside the adapter.
        data_collator: Makes a batch, in place of padding by the tokenizer.
        peft_config: The adapter to put on a model that has none.
        variant: Name of the method, ``package.module:NAME``, or the variant itself.
        variant_settings: The variant's own settings; None takes its defaults.
        callbacks: Hang on the engine, see :class:`~bilora.engines.callbacks.callback.Callback`.
        task: What the rows were made of, such as a :class:`bilora.tasks.Task`; then ``bilora evaluate``, ``predict``
            and ``export`` take the folder that :meth:`save_model` writes.
        max_length: Number of tokens at which the rows were cut, for them; None takes the longest row.

    Raises:
        SettingsError: The model has no adapter and none is given, or other outputs than the task.
        DataError: A row has no labels, or nothing that the model takes.

    Attributes:
        log_history: After training, its losses and evaluations, as in ``trainer_state.json``.
    """

    def __init__(
        self,
        model: Any,
        args: BilevelTrainingArguments,
        *,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        compute_metrics: ComputeMetrics | None = None,
        processing_class: Any = None,
        data_collator: Callable[..., Any] | None = None,
        peft_config: PeftConfig | None = None,
        variant: str | Variant = "bilora",
        variant_settings: Any = None,
        callbacks: Sequence[Callback] = (),
        task: AnyTask | None = None,
        max_length: int | None = None,
    ) -> None:
        self.model = _adapted(model, peft_config)
        self.args = args
        self.compute_metrics = compute_metrics
        self.processing_class = processing_class
        self.variant = find_variant(variant) if isinstance(variant, str) else variant
        self.variant_settings = variant_settings or _settings_of(self.model, self.variant)
        self.callbacks = tuple(callbacks)
        self.task, self.max_length = task, max_length
        if task is not None:
            check_task(task, self.model)
        self.log_history: list[dict[str, Any]] = []
        self._scores: Mapping[str, Any] = {}
        self._collate = collate_for(processing_class, data_collator)
        self._train = None if train_dataset is None else self._rows(train_dataset, "train_dataset")
        self._eval = None if eval_dataset is None else self._rows(eval_dataset, "eval_dataset")

    def train(self, resume_from_checkpoint: bool | str | Path | None = None) -> TrainOutput:
        """Train the adapter in place, and write ``metrics.jsonl`` and ``trainer_state.json`` into ``output_dir``.

        Where checkpoints are saved, a SIGTERM or SIGINT ends the training after the step it is in, and saves one.

        Args:
            resume_from_checkpoint: True goes on from the newest checkpoint in ``output_dir`` that verifies, a path from
                that one, to the numbers of a training that was never interrupted; None or False begins.

        Returns:
            Lower steps, mean training loss, and time with the last evaluation.

        Raises:
            SettingsError: There are no training rows, or ``output_dir`` holds an earlier training.
            CheckpointError: There is no checkpoint to go on from, or it is of another training.
            InterruptedRun: A signal ended the training.
        """
        if self._train is None:
            raise SettingsError("train needs rows; give 'train_dataset'")
        folder, resume = enter_folder(Path(self.args.output_dir), resume_from_checkpoint)
        splits = self.variant.splits_rows(self.variant_settings)
        settings = self.args.fit_settings(rows=len(self._train), splits=splits)
        result = fit(
            self.model,
            self._train,
            collate=self._collate,
            variant=self.variant,
            variant_settings=self.variant_settings,
            settings=settings,
            validate=None if self._eval is None else self._validate,
            monitor=self.args.monitor,
            callbacks=self._hooks(folder),
            folder=folder if resume or settings.save_every else None,
            resume=resume,
        )
        lines = read_lines(folder / "metrics.jsonl")
        self.log_history = write_state(folder, lines, result, monitor=self.args.monitor)["log_history"]
        self._scores = kept_scores(lines, result)
        losses = [entry["loss"] for entry in self.log_history if "loss" in entry]
        metrics = {"train_runtime": round(result.seconds, 4), **_named("eval", result.metrics or {})}
        return TrainOutput(result.steps, sum(losses) / len(losses), metrics)

    def evaluate(self, eval_dataset: Dataset | None = None, metric_key_prefix: str = "eval") -> dict[str, Any]:
        """Return loss and metrics of the model as it is, each name with the prefix.

        Args:
            eval_dataset: Rows; None takes the trainer's own.
            metric_key_prefix: What stands before every name.

        Raises:
            SettingsError: There are no rows.
        """
        rows = self._eval if eval_dataset is None else self._rows(eval_dataset, "eval_dataset")
        if rows is None:
            raise SettingsError("evaluate needs rows; give 'eval_dataset'")
        started = time.perf_counter()
        metrics = self._metrics(self._outputs(rows))
        if eval_dataset is None:
            self._scores = metrics
        seconds = time.perf_counter() - started
        speed = {"runtime": round(seconds, 4), "samples_per_second": round(len(rows) / seconds, 3)}
        return _named(metric_key_prefix, {**metrics, **speed})

    def predict(self, test_dataset: Dataset, metric_key_prefix: str = "test") -> PredictionOutput:
        """Return logits, labels (None where the rows have none) and metrics.

        Args:
            test_dataset: Rows, with or without labels.
            metric_key_prefix: What stands before the name of every metric.
        """
        rows = model_rows(test_dataset, self.model.get_base_model(), what="test_dataset", labelled=False)
        outputs = self._outputs(rows)
        metrics = {} if outputs.label_ids is None else _named(metric_key_prefix, self._metrics(outputs))
        return PredictionOutput(outputs.predictions, outputs.label_ids, metrics)

    def save_model(self, output_dir: str | None = None) -> None:
        """Write adapter, card, the model's config, tokenizer and any task; None writes into ``args.output_dir``."""
        sets = {"train": self._train or [], "eval": self._eval or []}
        sizes = {name: len(rows) for name, rows in sets.items() if rows}
        own: dict[str, Any] = {
            "method": self.variant.name,
            "sizes": sizes,
            "scores": self._scores,
            "seed": self.args.seed,
        }
        save_trained(
            self.model,
            Path(output_dir or self.args.output_dir),
            facts=card_facts(self.model, task=self.task, **own),
            tokenizer=self.processing_class,
            task=self.task,
            max_length=self.max_length or longest(*sets.values()),
        )

    def _rows(self, dataset: Dataset, what: str) -> list[Any]:
        return model_rows(dataset, self.model.get_base_model(), what=what, labelled=True)

    def _validate(self) -> Mapping[str, float | None]:
        assert self._eval is not None  # else the engine is given no validation
        return self._metrics(self._outputs(self._eval))

    def _outputs(self, rows: Sequence[Any]) -> Outputs:
        self.model.to(choose_device("cpu" if self.args.use_cpu else "auto"))
        size, dtype = self.args.per_device_eval_batch_size, autocast_dtype(self.args.precision)
        return run_model(self.model, rows, collate=self._collate, batch_size=size, dtype=dtype)

    def _metrics(self, outputs: Outputs) -> dict[str, Any]:
        metrics: dict[str, Any] = {"loss": outputs.loss}
        if self.compute_metrics is not None and outputs.label_ids is not None:
            both = EvalPrediction(predictions=outputs.predictions, label_ids=outputs.label_ids)
            metrics |= {name.removeprefix("eval_"): value for name, value in self.compute_metrics(both).items()}
        return metrics

    def _hooks(self, folder: Path) -> tuple[Callback, ...]:
        bar = () if self.args.disable_tqdm else (Progress(self.variant.name),)
        named = folder if self.args.run_name is None else folder / self.args.run_name
        reports = [ReportTo(name, named, resolved(self.args)) for name in self.args.trackers]
        return (MetricsFile(folder / "metrics.jsonl"), *bar, *reports, *self.callbacks)


def _adapted(model: Any, peft_config: PeftConfig | None) -> PeftModel:
    if peft_config is not None:
        with quiet_peft():
            model = get_peft_model(model, peft_config)
    if not isinstance(model, PeftModel):
        raise SettingsError(
            f"model is a {type(model).__name__} without an adapter; give peft_config, such as "
            "BiloraConfig(task_type='SEQ_CLS', r=8, alpha=16), or a model from peft.get_peft_model"
        )
    return model


def _settings_of(model: PeftModel, variant: Variant) -> Any:
    """Return the variant's settings, for BiLoRA with what its adapter was made with."""
    config = model.peft_config[model.active_adapter]
    if variant.settings is BiloraSettings and isinstance(config, BiloraConfig):
        return BiloraSettings(rank=config.r, formulation=config.formulation, normalized=config.normalized)
    return variant.settings()


def _named(prefix: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
