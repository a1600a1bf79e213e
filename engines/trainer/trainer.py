"""transformers' Trainer with the training loop of :func:`~bilora.engines.training.fit.fit`."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, has_length, speed_metrics

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.trainer.adapted import adapted
from bilora.engines.trainer.arguments import BilevelTrainingArguments
from bilora.engines.trainer.data import Dataset, batches_of, check_labels, training_rows
from bilora.engines.trainer.files import check_task, enter_folder, kept_scores, save_trained
from bilora.engines.trainer.hooks import TrainerHooks, scores_of
from bilora.engines.trainer.optimizer import makes_optimizer, own_optimizer, refuse_optimizer
from bilora.engines.trainer.plain_arguments import own_arguments, tell_learned_decays
from bilora.engines.trainer.refused import refuse_generation, refuse_trainer
from bilora.engines.training.diverged import NAME as DIVERGED
from bilora.engines.training.fit import fit, settings_of_adapter
from bilora.engines.training.result import FitResult
from bilora.errors import SettingsError
from bilora.files.formats import read_lines, write_json
from bilora.problems.catalog import DEFAULT_METHOD, find_variant
from bilora.problems.levels.betty_problem import PRECISIONS
from bilora.problems.variant import Variant
from bilora.settings.arguments import check_arguments
from bilora.tasks.task import AnyTask

ComputeMetrics = Callable[[EvalPrediction], dict[str, Any]]

# Events inside a step of an optimizer, of which two levels have two: nobody could tell whose they are.
NOT_FIRED = ("on_substep_end", "on_pre_optimizer_step", "on_optimizer_step")


class BilevelTrainer(Trainer):
    """Train an adapter on two levels, and evaluate, predict and save as transformers' Trainer does.

    Callbacks, state, evaluation, prediction and the hub are Trainer's. A ``compute_loss`` that a subclass overrides is
    the loss of both levels, and a ``create_optimizer`` makes the optimizer of the lower one. What Trainer has and two
    levels have not is refused by name.

    Args:
        model: A model with the variant's adapter on it, or one without; it gets ``peft_config``, or the variant's own
            adapter, for the task that its class names, and a notice says so.
        args: The settings. Plain ``TrainingArguments`` are obeyed as given, for the lower level; a notice says where
            their learning rate is one for full fine-tuning.
        train_dataset: Tokenised rows with ``labels`` or ``label``; columns that the model does not take are left out,
            and labels that are numbers are trained on as they are, not standardised.
        upper_dataset: Rows of D2, the part that the upper level trains on; then ``train_dataset`` is D1. None draws
            both from ``train_dataset``.
        eval_dataset: The same, for evaluation, or several by name; it is not trained on.
        compute_metrics: From predictions and labels to metrics by name.
        processing_class: The tokenizer, which pads batches and is saved beside the adapter.
        data_collator: Makes a batch, in place of padding by the tokenizer.
        model_init: Returns the model, in place of ``model``; each training begins with a new one.
        peft_config: The adapter to put on a model that has none.
        variant: Name of the method, ``package.module:NAME``, or the variant itself. That of the default,
            ``self_tuned``, trains the adapter of ``BiloraConfig(init_weights="lora")``.
        variant_settings: The variant's own settings; None takes its defaults.
        callbacks: transformers' ``TrainerCallback``, or the engine's
            :class:`~bilora.engines.callbacks.callback.Callback`.
        task: What the rows were made of, such as a :class:`bilora.tasks.Task`; then ``bilora evaluate``, ``predict``
            and ``export`` take the folder that :meth:`save_model` writes.
        max_length: Number of tokens at which the rows were cut, for them; None takes the longest row.
        compute_loss_func: From outputs and labels to the loss of both levels.
        preprocess_logits_for_metrics: From the logits and labels of a batch to predictions for ``compute_metrics``.

    Raises:
        SettingsError: An argument means nothing on two levels, the model has no adapter and its class does not say
            which task it is for, or it has other outputs than the task.

    Attributes:
        log_history: Losses and evaluations, as in ``trainer_state.json``; ``metrics.jsonl`` has every step.
    """

    args: BilevelTrainingArguments
    model: PeftModel

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        # In Trainer's order, for code that gives them by place.
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        processing_class: Any = None,
        model_init: Callable[..., Any] | None = None,
        *,
        upper_dataset: Dataset | None = None,
        compute_metrics: ComputeMetrics | None = None,
        peft_config: PeftConfig | None = None,
        variant: str | Variant = DEFAULT_METHOD,
        variant_settings: Any = None,
        callbacks: Sequence[Callback | TrainerCallback | type[TrainerCallback]] | None = None,
        task: AnyTask | None = None,
        max_length: int | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        **refused: Any,
    ) -> None:
        # Before super().__init__, which moves the model to a device.
        refuse_trainer(type(self), refused)
        check_arguments(BilevelTrainer, locals(), model=nn.Module | None)
        if (model is None) == (model_init is None):
            raise SettingsError("a trainer needs 'model' or 'model_init', and not both")
        self.args = args = own_arguments(args)
        refuse_generation(type(self), args)
        hooks: list[Any] = list(callbacks or ())
        self.engine_callbacks = tuple(hook for hook in hooks if isinstance(hook, Callback))
        self.variant = find_variant(variant) if isinstance(variant, str) else variant
        self.variant.check_settings(variant_settings)
        refuse_optimizer(type(self), self.variant)
        tell_learned_decays(args, self.variant)
        self.upper_dataset, self.train_dataset = upper_dataset, train_dataset
        self.model_init = model_init  # type: ignore[assignment]  # of transformers, where it may be None as well
        self._adapter = peft_config, variant_settings
        first = self._made_model(says=True) if model is None else self._adapted(model, says=True)
        self.variant_settings = variant_settings or settings_of_adapter(first, self.variant)
        self.task, self.max_length = task, max_length
        if task is not None:
            check_task(task, first)
        self.first_step = 0
        self.scores: Mapping[str, Any] = {}
        self._loss_sum, self._loss_items = 0.0, 0
        self._checked = set[int]()
        super().__init__(
            first,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=[hook for hook in hooks if not isinstance(hook, Callback)],
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        # Only now: Trainer would put a model without an adapter in place of this one.
        self.model_init = model_init  # type: ignore[assignment]

    @property
    def log_history(self) -> list[dict[str, Any]]:
        """The entries of ``state.log_history``."""
        return self.state.log_history

    @property
    def output_dir(self) -> str:
        """``args.output_dir``, which the arguments have filled in."""
        return str(self.args.output_dir)

    @property
    def computes_loss(self) -> bool:
        """Whether the loss is another than the model's own."""
        overridden = type(self).compute_loss is not Trainer.compute_loss
        return overridden or self.compute_loss_func is not None or self.label_smoother is not None

    def train(
        self,
        resume_from_checkpoint: bool | str | Path | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train the adapter in place, and write ``metrics.jsonl`` and ``trainer_state.json`` into ``output_dir``.

        Where checkpoints are saved, a SIGTERM or SIGINT ends the training after the step it is in, and saves one.

        Args:
            resume_from_checkpoint: True goes on from the newest checkpoint in ``output_dir`` that verifies, a path from
                that one, to the numbers of a training that was never interrupted; None or False begins.
            trial: None; there is no search here.
            ignore_keys_for_eval: Outputs of the model that the evaluations leave out.

        Returns:
            Lower steps, mean training loss over all of them, and time.

        Raises:
            SettingsError: There are no training rows, or ``output_dir`` holds an earlier training.
            DataError: A row has nothing that the model takes, no labels, or labels that it cannot learn.
            CheckpointError: There is no checkpoint to go on from, or it is of another training.
            InterruptedRun: A signal ended the training.
        """
        if self.train_dataset is None:
            raise SettingsError("train needs rows; give 'train_dataset'")
        if trial is not None:
            self.hyperparameter_search()
        for kind, event in itertools.product(map(type, self.callback_handler.callbacks), NOT_FIRED):
            if getattr(kind, event) is not getattr(TrainerCallback, event):
                raise SettingsError(f"callback {kind.__name__} has {event}, which two levels do not fire")
        self._memory_tracker.start()  # type: ignore[no-untyped-call]
        # The rows are checked before the folder is made.
        rows = self._rows(self.train_dataset, "train_dataset")
        upper_rows = None if self.upper_dataset is None else self._rows(self.upper_dataset, "upper_dataset")
        splits = upper_rows is None and self.variant.splits_rows(self.variant_settings)
        if self.model_init is not None:
            self._take_model(self._made_model(says=False))
        folder, resume = enter_folder(Path(self.output_dir), resume_from_checkpoint)
        settings = self.args.fit_settings(rows=len(rows), splits=splits, defaults=self.variant.defaults)
        steps_per_epoch = self.args.steps_per_epoch(rows=len(rows), splits=splits)
        hooks = TrainerHooks(self, steps_per_epoch=steps_per_epoch, ignore_keys=ignore_keys_for_eval)
        self.state = TrainerState()
        started, self.is_in_train = time.time(), True
        try:
            result = fit(
                self.model,
                rows,
                upper_rows=upper_rows,
                collate=batches_of(self.data_collator, self.train_dataset),
                variant=self.variant,
                variant_settings=self.variant_settings,
                settings=settings,
                lower_optimizer=partial(own_optimizer, self) if makes_optimizer(type(self)) else None,
                # Only to choose the best: else the engine would evaluate at the end, whatever the control says.
                validate=hooks.validate if settings.keep_best or settings.early_stopping else None,
                monitor=self.args.monitor,
                callbacks=(MetricsFile(folder / "metrics.jsonl"), *self.engine_callbacks, hooks),
                # Without one no checkpoint is written, and signals are the user's.
                folder=folder if resume or settings.save_every else None,
                resume=resume,
            )
        finally:
            self.is_in_train = False
        return self._finish(folder, result, started)

    def _finish(self, folder: Path, result: FitResult, started: float) -> TrainOutput:
        lines = read_lines(folder / "metrics.jsonl")
        self.scores = kept_scores(lines, result)
        # Of the whole training, the steps before a resume too; a skipped step has null for a loss that is not finite.
        losses = [line["lower_loss"] for line in lines if line.get("lower_loss") is not None]
        steps = result.steps - self.first_step
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        metrics = speed_metrics("train", started, steps * batch, steps)  # type: ignore[no-untyped-call]
        metrics["train_loss"] = sum(losses) / len(losses)
        self._memory_tracker.stop_and_update_metrics(metrics)  # type: ignore[no-untyped-call]
        self.log(metrics)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        write_json(folder / "trainer_state.json", dataclasses.asdict(self.state))
        return TrainOutput(result.steps, metrics["train_loss"], metrics)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **generation: Any,
    ) -> dict[str, float]:
        """Return loss and metrics of the model as it is, as Trainer does; those of the own rows go into the card."""
        self._check_evaluated(self.eval_dataset if eval_dataset is None else eval_dataset)
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **generation)
        if eval_dataset is None:
            self.scores = scores_of(metrics, metric_key_prefix)
        return metrics

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Return what Trainer's loop does, with the sum of the losses over the sum of what they are means of."""
        self._loss_sum, self._loss_items = 0.0, 0
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        # Trainer leaves arrays of one number, which are not JSON.
        metrics = {name: np.asarray(value).tolist() for name, value in (output.metrics or {}).items()}
        if self._loss_items:
            # Trainer takes a mean of batch means, which for tokens changes with the size of the batches.
            metrics[f"{metric_key_prefix}_loss"] = self._loss_sum / self._loss_items
        return output._replace(metrics=metrics)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """Return loss, logits and labels of a batch, and add the loss up."""
        items = self._items(inputs)
        loss, logits, labels = super().prediction_step(model, inputs, *args, **options)
        # A batch whose labels are all passed over has no loss but nan.
        if loss is not None and items:
            self._loss_sum, self._loss_items = self._loss_sum + float(loss) * items, self._loss_items + items
        return loss, logits, labels

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Evaluate in the precision of training."""
        dtype = PRECISIONS[self.args.precision]
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.args.device.type, dtype=dtype)

    def hyperparameter_search(self, *args: Any, **options: Any) -> Any:
        """Refuse: there is no search here."""
        raise SettingsError("BilevelTrainer has no hyperparameter_search; bilora compare tunes on equal budgets")

    def push_to_hub(self, *args: Any, **options: Any) -> Any:
        """Upload ``output_dir`` as Trainer does, unless there are rows among its files."""
        # Written where a step was not finite, with the batches of that step, which may be private.
        rows = Path(self.output_dir) / DIVERGED
        if rows.exists():
            raise SettingsError(f"{rows} holds training rows, which push_to_hub would upload; move it away")
        return super().push_to_hub(*args, **options)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Add to the card in ``output_dir`` what the hub lists models by; its other numbers and words are ours.

        The repository has the name of ``model_name``, and the base model is the adapter's own, not ``finetuned_from``.
        """
        path = Path(self.output_dir) / "README.md"
        if not path.is_file():
            self.save_model(_internal_call=True)
        card = ModelCard.load(path)
        card.data.language, card.data.license = language, license
        card.data.tags = [*(card.data.tags or ()), *_listed(tags), *_listed(tasks)]
        card.data.datasets = _listed(dataset_tags) or None
        if dataset is not None:
            parts = f" ({', '.join(_listed(dataset_args))})" if dataset_args else ""
            card.text = (
                f"{card.text.rstrip()}\n\nThe data, as named by the author: {', '.join(_listed(dataset))}{parts}.\n"
            )
        card.save(path)

    def _made_model(self, *, says: bool) -> PeftModel:
        """Return a new model of the user's function, drawn by the seed alone."""
        set_seed(self.args.seed)
        return self._adapted(self.call_model_init(), says=says)

    def _adapted(self, model: Any, *, says: bool) -> PeftModel:
        peft_config, settings = self._adapter
        rows = len(self.train_dataset) if has_length(self.train_dataset) else 1
        splits = self.upper_dataset is None and self.variant.splits_rows(settings)
        fit_settings = self.args.fit_settings(rows=rows, splits=splits, defaults=self.variant.defaults)
        return adapted(model, peft_config, self.variant, settings, steps=fit_settings.lower_steps, says=says)

    def _take_model(self, model: PeftModel) -> None:
        self.model = self.model_wrapped = self.callback_handler.model = model
        self._move_model_to_device(model, self.args.device)
        model.config.use_cache = self.args.use_cache

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # As a run writes its adapter folder; Trainer would put pickles among the files.
        save_trained(self, Path(output_dir or self.output_dir))

    def _check_evaluated(self, dataset: Any) -> None:
        named: Any = self.eval_dataset
        dataset = named[dataset] if isinstance(dataset, str) else dataset
        parts: Iterable[Any] = dataset.values() if isinstance(dataset, dict) else (dataset,)
        for part in parts:
            # Once: a training comes back to the same rows again and again.
            if id(part) not in self._checked and hasattr(part, "__len__"):
                check_labels(part, self.model, "eval_dataset")
                self._checked.add(id(part))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # Trainer's would hand predictions back in order of length where training groups by length.
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    def _rows(self, dataset: Any, what: str) -> list[dict[str, Any]]:
        self._set_signature_columns_if_needed()
        columns = self._signature_columns if self.args.remove_unused_columns else None
        return training_rows(dataset, self.model, columns=columns, label_names=self.label_names, what=what)

    def _items(self, inputs: Mapping[str, Any]) -> int:
        # How many numbers the loss of a batch is the mean of: tokens with a label, or rows.
        labels = inputs.get(self.label_names[0]) if self.label_names else None
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            return len(next(iter(inputs.values())))
        base: Any = self.model.get_base_model()
        if getattr(base, "loss_type", None) == "ForCausalLM":
            labels = labels[..., 1:]  # the first token is predicted from nothing
        return int((labels != -100).sum())


def _listed(words: str | list[str] | None) -> list[str]:
    return [words] if isinstance(words, str) else list(words or ())
