"""The events of transformers' callbacks, fired from those of the engine, and their control obeyed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import SaveStrategy

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.records import StepRecord, ValidationRecord
from bilora.engines.checkpoints.saving import Checkpoints
from bilora.errors import SettingsError
from bilora.files.state import check_keys
from bilora.problems.levels.level import Level

if TYPE_CHECKING:
    from bilora.engines.bilevel import BilevelEngine
    from bilora.engines.trainer.trainer import BilevelTrainer


class TrainerHooks(Callback):
    """Fires every event in the order in which Trainer does, and does what the control asks for."""

    must_work = True

    def __init__(self, trainer: BilevelTrainer, *, steps_per_epoch: int, ignore_keys: list[str] | None) -> None:
        self.trainer = trainer
        self.steps_per_epoch = steps_per_epoch
        self.ignore_keys = ignore_keys
        # The next entry of the log: the last numbers of each level, and a sum of losses with their number.
        self._entry: dict[str, float] = {}
        self._loss, self._losses = 0.0, 0
        self._in_epoch = False

    def on_run_start(self, engine: BilevelEngine) -> None:
        trainer, state = self.trainer, self.trainer.state
        state.max_steps = engine.steps + engine.place.steps_after
        state.num_train_epochs = math.ceil(state.max_steps / self.steps_per_epoch)
        state.train_batch_size = trainer.args.train_batch_size
        state.compute_steps(trainer.args, state.max_steps)  # type: ignore[no-untyped-call]
        # Speeds are of the steps of this process alone.
        trainer.first_step = engine.step
        self._take_levels(engine)
        self._fire("on_train_begin")
        if trainer.args.eval_on_start and engine.step == 0:
            engine.validate_now(self.validate)
        # A checkpoint of an epoch's last step may have been written before the epoch was ended.
        if self._in_epoch and engine.step % self.steps_per_epoch == 0:
            self._end_epoch(engine)
        self._in_epoch = False  # on a resume, too, an epoch begins
        self._begin_epoch()

    def on_stage_start(self, engine: BilevelEngine) -> None:
        self._take_levels(engine)
        # A stage without steps, as pruning is, begins none.
        if engine.step < engine.steps:
            self._fire("on_step_begin")

    def on_step(self, engine: BilevelEngine, record: StepRecord) -> None:
        self._entry |= {"grad_norm": record.gradient_norm, "learning_rate": max(record.learning_rates)}
        if record.upper is not None:
            self._entry |= {
                "upper_loss": record.upper.loss,
                "hypergradient_norm": record.upper.hypergradient_norm,
                "upper_learning_rate": max(record.upper.learning_rates),
            }
        # One loss that is not finite would hide all the others of its entry.
        if not record.skipped:
            self._loss, self._losses = self._loss + record.loss, self._losses + 1

    def on_step_end(self, engine: BilevelEngine) -> None:
        trainer, state = self.trainer, self.trainer.state
        state.global_step, state.epoch = engine.step, engine.step / self.steps_per_epoch
        self._fire("on_step_end")
        self._obey(engine)
        # A training ends its last epoch, whole or not, as in Trainer; between two stages the epoch goes on.
        over = engine.ends_run and (engine.stop_reason is not None or engine.step >= engine.steps)
        if engine.step % self.steps_per_epoch == 0 or trainer.control.should_training_stop or over:
            self._end_epoch(engine)
        if trainer.control.should_training_stop:
            engine.stop("a callback set control.should_training_stop")
        elif engine.stop_reason is None and engine.step < engine.steps:
            self._begin_epoch()
            self._fire("on_step_begin")

    def on_validation(self, engine: BilevelEngine, record: ValidationRecord) -> None:
        args, state = self.trainer.args, self.trainer.state
        # After the callbacks have compared with the value before, as EarlyStoppingCallback does in on_evaluate.
        value = record.metrics.get(args.monitor.metric)
        better = args.monitor.is_better(value, than=state.best_metric)
        if better:
            state.best_metric, state.best_global_step = value, record.step
        if args.save_strategy == SaveStrategy.BEST:
            self.trainer.control.should_save = better

    def state(self) -> dict[str, Any]:
        return {
            # Of the callbacks their attributes alone: their arguments are given anew.
            "trainer": {**dataclasses.asdict(self.trainer.state), "stateful_callbacks": {}},
            "callbacks": [[name, callback.state()["attributes"]] for name, callback in self._exportable()],
            "hooks": [self._entry, self._loss, self._losses, self._in_epoch],
        }

    def load_state(self, state: Any) -> None:
        # Whatever ``restore_callback_states_from_checkpoint`` says: the run goes on to the same numbers.
        parts = check_keys(state, ("trainer", "callbacks", "hooks"), part="trainer")
        self.trainer.state = TrainerState(**parts["trainer"])
        self._entry, self._loss, self._losses, self._in_epoch = parts["hooks"]
        # One iterator for all, so that a second callback of a class takes the second state of that name.
        stored = iter(parts["callbacks"])
        for name, callback in self._exportable():
            attributes: dict[str, Any] = next((values for kind, values in stored if kind == name), {})
            for key, value in attributes.items():
                setattr(callback, key, value)

    def validate(self) -> dict[str, float | None]:
        """Evaluate as the trainer does, and return the metrics without prefix and without what a clock measures."""
        return scores_of(self.trainer.evaluate(ignore_keys=self.ignore_keys))

    def _exportable(self) -> list[tuple[str, Any]]:
        callbacks = self.trainer.callback_handler.callbacks
        return [(type(callback).__name__, callback) for callback in callbacks if isinstance(callback, ExportableState)]

    def _fire(self, event: str) -> None:
        trainer = self.trainer
        trainer.control = getattr(trainer.callback_handler, event)(trainer.args, trainer.state, trainer.control)

    def _begin_epoch(self) -> None:
        if not self._in_epoch:
            self._in_epoch = True
            self._fire("on_epoch_begin")

    def _end_epoch(self, engine: BilevelEngine) -> None:
        self._in_epoch = False
        self._fire("on_epoch_end")
        self._obey(engine)

    def _obey(self, engine: BilevelEngine) -> None:
        # In this order, as Trainer does: an evaluation may ask for the checkpoint of the best step.
        if self.trainer.control.should_epoch_stop:
            raise SettingsError("a callback set control.should_epoch_stop; here an epoch is read to its end")
        if self.trainer.control.should_log and self._losses:
            entry = {"loss": self._loss / self._losses, **self._entry}
            self._entry, self._loss, self._losses = {}, 0.0, 0
            self.trainer.log(entry)
        if self.trainer.control.should_evaluate:
            engine.validate_now(self.validate)
        if self.trainer.control.should_save:
            self._save(engine)

    def _save(self, engine: BilevelEngine) -> None:
        checkpoints = next(callback for callback in engine.callbacks if isinstance(callback, Checkpoints))
        if checkpoints.folder is None:
            raise SettingsError(
                "a callback set control.should_save, and save_strategy is 'no'; set it, so that the folder is kept for "
                "checkpoints from the start"
            )
        checkpoints.save(engine)
        # Looked at after the save, which may have written that folder or pruned it.
        best = Path(checkpoints.folder) / f"checkpoint-{self.trainer.state.best_global_step}"
        self.trainer.state.best_model_checkpoint = str(best) if best.is_dir() else None
        self._fire("on_save")

    def _take_levels(self, engine: BilevelEngine) -> None:
        trainer, lower = self.trainer, engine.lower_level
        # Callbacks are handed what the handler has; their users look at the trainer.
        handler = trainer.callback_handler
        trainer.optimizer = handler.optimizer = lower.optimizer
        trainer.lr_scheduler = handler.lr_scheduler = lower.learning_rate_scheduler
        handler.train_dataloader = lower.train_data_loader
        if not trainer.computes_loss:
            return
        own_weights = getattr(trainer.variant_settings, "own_row_weights", None)
        if own_weights is not None:
            raise SettingsError(
                f"method {trainer.variant.name!r} with {own_weights} weighs rows in the model's own loss, and the "
                "trainer has another; leave out compute_loss, compute_loss_func and label_smoothing_factor, or that "
                "setting"
            )
        for level in engine.levels:
            if type(level).training_step is not Level.training_step:
                raise SettingsError(
                    f"level {level.name!r} of method {trainer.variant.name!r} has a training_step, and the trainer a "
                    "loss of its own; leave out compute_loss, compute_loss_func and label_smoothing_factor"
                )
            level.compute_loss = trainer.compute_loss


def scores_of(metrics: dict[str, Any], prefix: str = "eval") -> dict[str, float | None]:
    """Return the metrics without prefix, and without those of time and memory."""
    # Which differ between two runs of the same command: they are no scores of the model.
    measured = ("_runtime", "_per_second", "_model_preparation_time", "epoch", "_alloc_delta", "_peaked_delta")
    return {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items() if not name.endswith(measured)}
