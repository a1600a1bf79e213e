"""Settings of :class:`~bilora.engines.trainer.trainer.BilevelTrainer`, under transformers' names where it has one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from bilora.engines.callbacks.trackers import check_loggers
from bilora.engines.settings import FitSettings, LevelSettings, Schedule
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.settings.sections import refuse_faults


@dataclass(frozen=True)
class BilevelTrainingArguments:
    """How a trainer trains. What stands alone belongs to the lower level, ``upper_...`` to the upper one.

    Args:
        output_dir: Folder for ``metrics.jsonl``, ``trainer_state.json`` and :meth:`save_model`.
        learning_rate: Peak learning rate of the lower level.
        upper_learning_rate: Peak learning rate of the upper level.
        weight_decay: Weight decay of the lower level.
        upper_weight_decay: Weight decay of the upper level.
        per_device_train_batch_size: Rows a micro-batch of the lower level.
        upper_train_batch_size: Rows a micro-batch of the upper level; None takes that of the lower one.
        per_device_eval_batch_size: Rows a batch of evaluation and prediction.
        gradient_accumulation_steps: Micro-batches a lower step.
        num_train_epochs: Passes of the lower level over its rows, where ``max_steps`` is -1.
        max_steps: Lower steps; -1 goes by epochs.
        lr_scheduler_type: ``constant``, ``linear`` or ``cosine``, of both levels.
        warmup_ratio: Share of a level's steps over which its learning rate rises.
        max_grad_norm: Largest gradient norm of each level; 0 does not clip.
        unroll_steps: Lower steps an upper step.
        hypergradient: Name, or mapping with ``name`` and that approximation's own settings.
        split_ratio: Share of the training rows that go to the lower level.
        split_refresh: Draw a new split every so many epochs of the lower level; 0 keeps the first.
        eval_strategy: ``no``, ``steps`` (every ``eval_steps``) or ``epoch``.
        eval_steps: Lower steps between two evaluations.
        save_strategy: ``no``, ``steps`` (every ``save_steps``) or ``epoch``: when a checkpoint is written into
            ``output_dir``, which ``train(resume_from_checkpoint=True)`` goes on from.
        save_steps: Lower steps between two checkpoints.
        save_total_limit: Newest checkpoints to keep; None keeps all.
        load_best_model_at_end: Whether to end with the parameters of the best evaluation.
        metric_for_best_model: Name of a metric, with or without ``eval_`` before it.
        greater_is_better: Its direction; None takes larger as better, unless the name ends in ``loss``.
        early_stopping_patience: Evaluations without a better one before training ends; 0 never ends it early.
        seed: Of the split, the data order and the dropout masks.
        bf16: Whether forward passes are in bfloat16, by autocast.
        fp16: Whether they are in float16.
        use_cpu: Whether to stay on the CPU where there is a GPU.
        report_to: Trackers, see :data:`bilora.engines.callbacks.trackers.LOGGERS`; ``none`` for none.
        run_name: Name of the run for them; None takes that of ``output_dir``.
        disable_tqdm: Whether to leave the progress bar out.

    Raises:
        SettingsError: A value is out of range, or two do not fit each other.

    Example:
        >>> BilevelTrainingArguments("out", num_train_epochs=2).fit_settings(rows=100, splits=True).steps
        20
    """

    output_dir: str
    learning_rate: float = 1e-3
    upper_learning_rate: float = 1e-2
    weight_decay: float = 0.0
    upper_weight_decay: float = 0.0
    per_device_train_batch_size: int = 8
    upper_train_batch_size: int | None = None
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 3.0
    max_steps: int = -1
    lr_scheduler_type: Schedule = "linear"
    warmup_ratio: float = 0.06
    max_grad_norm: float = 1.0
    unroll_steps: int = 4
    hypergradient: str | dict[str, Any] = "darts"
    split_ratio: float = 0.8
    split_refresh: int = 0
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    eval_steps: int | None = None
    save_strategy: Literal["no", "steps", "epoch"] = "no"
    save_steps: int = 500
    save_total_limit: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str = "loss"
    greater_is_better: bool | None = None
    early_stopping_patience: int = 0
    seed: int = 42
    bf16: bool = False
    fp16: bool = False
    use_cpu: bool = False
    report_to: str | list[str] = field(default_factory=list)
    run_name: str | None = None
    disable_tqdm: bool = False

    def __post_init__(self) -> None:
        """Check the values; those of the levels are checked by their own settings."""
        watched = self.load_best_model_at_end or self.early_stopping_patience > 0
        checks = (
            ("max_steps", "it must be at least 1, or -1", self.max_steps >= 1 or self.max_steps == -1),
            ("num_train_epochs", "it must be positive", 0 < self.num_train_epochs < math.inf),
            ("per_device_eval_batch_size", "it must be at least 1", self.per_device_eval_batch_size >= 1),
            ("eval_strategy", "allowed: no, steps, epoch", self.eval_strategy in ("no", "steps", "epoch")),
            ("eval_steps", "eval_strategy 'steps' needs it", self.eval_strategy != "steps" or bool(self.eval_steps)),
            ("save_strategy", "allowed: no, steps, epoch", self.save_strategy in ("no", "steps", "epoch")),
            ("save_steps", "it must be at least 1", self.save_steps >= 1),
            (
                "save_total_limit",
                "it must be at least 1, or None for all",
                self.save_total_limit is None or self.save_total_limit >= 1,
            ),
            (
                "eval_strategy",
                "load_best_model_at_end and early_stopping_patience look at evaluations; set steps or epoch",
                self.eval_strategy != "no" or not watched,
            ),
        )
        refuse_faults("arguments", self, checks)
        if self.bf16 and self.fp16:
            raise SettingsError("arguments: bf16 and fp16 are both set; take one of them")
        check_loggers(self.trackers)
        self.fit_settings(rows=2, splits=True)

    @property
    def trackers(self) -> list[str]:
        """The names in ``report_to``."""
        if isinstance(self.report_to, str):
            return [] if self.report_to == "none" else [self.report_to]
        return list(self.report_to)

    @property
    def precision(self) -> Literal["fp32", "bf16", "fp16"]:
        """Precision of the forward passes."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    @property
    def monitor(self) -> Monitor:
        """The metric by which the best evaluation is known."""
        name = self.metric_for_best_model.removeprefix("eval_")
        greater = not name.endswith("loss") if self.greater_is_better is None else self.greater_is_better
        return Monitor(name, greater_is_better=greater)

    def fit_settings(self, *, rows: int, splits: bool) -> FitSettings:
        """Return the settings of :func:`~bilora.engines.training.fit.fit`.

        Args:
            rows: Training rows.
            splits: Whether the method divides them into D1 and D2.
        """
        below = rows * self.split_ratio if splits else rows
        an_epoch = max(1, math.ceil(below / (self.per_device_train_batch_size * self.gradient_accumulation_steps)))
        steps = max(1, math.ceil(self.num_train_epochs * an_epoch)) if self.max_steps == -1 else self.max_steps
        every = {"no": 0, "steps": self.eval_steps or 0, "epoch": an_epoch}[self.eval_strategy]
        saved = {"no": 0, "steps": self.save_steps, "epoch": an_epoch}[self.save_strategy]
        return FitSettings(
            steps=steps,
            unroll_steps=self.unroll_steps,
            hypergradient=self.hypergradient,
            lower=self._level("lower"),
            upper=self._level("upper"),
            split_ratio=self.split_ratio,
            refresh=self.split_refresh,
            validate_every=every,
            early_stopping=self.early_stopping_patience,
            keep_best=self.load_best_model_at_end,
            save_every=saved,
            save_total_limit=self.save_total_limit or 0,
            precision=self.precision,
            device="cpu" if self.use_cpu else "auto",
            seed=self.seed,
        )

    def _level(self, level: Literal["lower", "upper"]) -> LevelSettings:
        lower = level == "lower"
        batch = self.per_device_train_batch_size
        return LevelSettings(
            learning_rate=self.learning_rate if lower else self.upper_learning_rate,
            weight_decay=self.weight_decay if lower else self.upper_weight_decay,
            batch_size=batch if lower or self.upper_train_batch_size is None else self.upper_train_batch_size,
            accumulation=self.gradient_accumulation_steps if lower else 1,
            schedule=self.lr_scheduler_type,
            warmup=self.warmup_ratio,
            gradient_clipping=self.max_grad_norm,
        )
