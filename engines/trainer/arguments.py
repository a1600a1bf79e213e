"""Arguments of a trainer: those of transformers, and those of the upper level."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from transformers import SchedulerType, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SaveStrategy

from bilora.engines.hypergradients.catalog import named
from bilora.engines.settings import OPEN, RATES, FitSettings, LevelSettings, Schedule
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.settings.lookup import did_you_mean
from bilora.settings.sections import BEYOND, refuse_faults

# The defaults below are read from it, so that they cannot drift apart from those of ``fit``.
FIT = FitSettings()

# Steps between two validations or checkpoints of the engine itself: the control of the callbacks asks for them.
NEVER = BEYOND - 1

# Arguments of transformers that mean nothing for two levels, by the reason why; only the default is taken.
REFUSED: dict[str, tuple[str, ...]] = {
    "both levels are trained by AdamW with torch's defaults; a user's own method may take another optimizer": (
        *("optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon"),
        "lr_scheduler_kwargs",
    ),
    "the model is trained as it is given; change it before it goes to the trainer": (
        *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing"),
        *("gradient_checkpointing_kwargs", "use_liger_kernel", "liger_kernel_config", "neftune_noise_alpha"),
        *("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    ),
    "a trainer trains in one process; bilora.engines.fit trains in several, and shards the base model": (
        *("accelerator_config", "parallelism_config", "fsdp", "deepspeed", "ddp_backend", "ddp_bucket_cap_mb"),
        *("ddp_broadcast_buffers", "ddp_find_unused_parameters", "ddp_static_graph", "save_on_each_node"),
    ),
    "a checkpoint holds the whole state of both levels, and a resumed training goes on to the same bits": (
        *("save_only_model", "ignore_data_skip", "enable_jit_checkpoint"),
    ),
    "evaluation has the precision of training, and evaluates every row": (
        *("bf16_full_eval", "fp16_full_eval", "dataloader_drop_last"),
    ),
    "each level draws its rows in an order that follows from 'seed' alone": (
        *("data_seed", "length_column_name", "sortish_sampler"),
    ),
    "it is not measured here": ("include_num_input_tokens_seen", "debug", "torch_empty_cache_steps"),
}


@dataclass
class BilevelTrainingArguments(TrainingArguments):
    """How a trainer trains: the arguments of transformers for the lower level, ``upper_...`` for the upper one.

    What is not listed here means what it does for transformers' Trainer, of the lower level and its steps, or is
    refused by name, see :data:`REFUSED`. The defaults are those of :class:`~bilora.engines.settings.FitSettings`
    and of the command; with rows for evaluation, ``eval_strategy`` and ``load_best_model_at_end`` keep the best step,
    as the command does.

    Args:
        upper_learning_rate: Peak learning rate of the upper level.
        upper_weight_decay: Weight decay of the upper level.
        per_device_train_batch_size: Rows per micro-batch of the lower level.
        upper_train_batch_size: Rows per micro-batch of the upper level; None takes the method's own, or that of the
            lower level.
        lr_scheduler_type: ``constant``, ``linear`` or ``cosine``, of both levels; as warm-up and clipping not of the
            upper level of a method that has its own.
        warmup_ratio: Share of a level's steps over which its learning rate rises, where ``warmup_steps`` is 0.
        warmup_steps: The same as a number of lower steps, or below 1 as a share.
        unroll_steps: Lower steps per upper step; None takes the method's own, or 4.
        hypergradient: Name, mapping with ``name`` and that approximation's own settings, or an object; None takes the
            method's own, or ``darts``.
        split_ratio: Share of the training rows that go to the lower level.
        split_refresh: Draw a new split every so many epochs of the lower level; 0 keeps the first.
        logging_steps: Lower steps per entry of ``log_history``; ``metrics.jsonl`` has every step.
        save_strategy: ``no``, ``steps`` (every ``save_steps``), ``epoch`` or ``best``: when a checkpoint is written,
            which ``train(resume_from_checkpoint=True)`` goes on from.
        load_best_model_at_end: Whether to end with the parameters of the best evaluation; they are kept in memory, so
            that ``save_strategy`` need not match.
        early_stopping_patience: Evaluations without a better one before a stage ends; 0 never ends it early.
        auto_find_batch_size: Whether a level that runs out of memory halves its batch and doubles its accumulation.
        hub_strategy: ``end``: what is pushed is the adapter, by :meth:`push_to_hub` or :meth:`save_model`.

    Raises:
        SettingsError: A value is out of range, means nothing here, or two do not fit each other.

    Example:
        >>> BilevelTrainingArguments("out", num_train_epochs=2).fit_settings(rows=100, splits=True).steps
        10
    """

    # So that a command line can give the mapping as JSON.
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "hypergradient"]  # noqa: RUF012  # no field

    per_device_train_batch_size: int = FIT.lower.batch_size
    # As many as ``bilora train`` makes of a file that is not tiny.
    num_train_epochs: float = 10.0
    seed: int = FIT.seed
    learning_rate: float = RATES["lower"]
    weight_decay: float = FIT.lower.weight_decay
    lr_scheduler_type: SchedulerType | str = FIT.lower.schedule
    max_grad_norm: float = FIT.lower.gradient_clipping
    logging_steps: float = 10
    save_strategy: SaveStrategy | str = "no"
    metric_for_best_model: str | None = "loss"
    hub_strategy: str = "end"
    upper_learning_rate: float = RATES["upper"]
    upper_weight_decay: float = FIT.upper.weight_decay
    upper_train_batch_size: int | None = None
    warmup_ratio: float = FIT.lower.warmup
    unroll_steps: int | None = None
    # In this order HfArgumentParser takes it for a string, which may be JSON.
    hypergradient: dict[str, Any] | str | Hypergradient | None = None
    split_ratio: float = FIT.split_ratio
    split_refresh: int = 0
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        watched = self.load_best_model_at_end or self.early_stopping_patience > 0
        sees = "load_best_model_at_end and early_stopping_patience look at evaluations; set steps or epoch"
        limit, orders = self.save_total_limit, ("random", "group_by_length")
        # transformers writes its arguments as JSON.
        self.hypergradient = named(self.hypergradient or FIT.hypergradient)
        checks = (
            ("max_steps", "it must be at least 1, or -1", self.max_steps >= 1 or self.max_steps == -1),
            ("num_train_epochs", "it must be positive", 0 < self.num_train_epochs < math.inf),
            ("per_device_eval_batch_size", "it must be at least 1", self.per_device_eval_batch_size >= 1),
            ("save_steps", "it must be at least 1, or a share of the steps below 1", self.save_steps > 0),
            ("save_total_limit", "it must be at least 1, or None for all", limit is None or limit >= 1),
            ("eval_strategy", sees, self.eval_strategy != "no" or not watched),
            ("train_sampling_strategy", f"allowed: {', '.join(orders)}", self.train_sampling_strategy in orders),
            ("hub_strategy", "the adapter is pushed at the end; set it to 'end'", self.hub_strategy == "end"),
            *self._without_meaning(),
        )
        refuse_faults("arguments", self, checks)
        # The best parameters are kept in memory: they need no checkpoint, and so no save_strategy that matches, which
        # transformers would ask for.
        best, self.load_best_model_at_end = self.load_best_model_at_end, False
        try:
            super().__post_init__()  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise SettingsError(f"arguments: {error}") from error
        self.load_best_model_at_end = best
        for name in self.report_to or ():
            if name not in INTEGRATION_TO_CALLBACK:
                raise SettingsError(
                    f"arguments: report_to {name!r} is unknown; known: {', '.join(INTEGRATION_TO_CALLBACK)}; or give a "
                    f"callback of your own in 'callbacks'.{did_you_mean(name, INTEGRATION_TO_CALLBACK)}"
                )
        if self.world_size > 1:
            raise SettingsError(
                f"arguments: {self.world_size} processes were started, and a trainer trains in one; call "
                "bilora.engines.fit, or bilora train, under torchrun"
            )
        # Autocast is the levels' own: accelerate would wrap the model's forward for good at the first evaluation.
        self.mixed_precision = "no"
        self._n_gpu = min(self.n_gpu, 1)  # of several GPUs the first; Trainer would copy the model to all of them
        # What the levels' own settings check is told now, not after the data has been read; the rows do not matter.
        self.fit_settings(rows=2, splits=True)

    def _without_meaning(self) -> Iterator[tuple[str, str, bool]]:
        for reason, names in REFUSED.items():
            for name in names:
                # Not every version of transformers has every name.
                value, default = getattr(self, name, None), getattr(TrainingArguments, name, None)
                # The later ones stand for the default once __post_init__ has been over it, as in dataclasses.replace.
                yield name, reason, not value or value in (default, "no", "adamw_torch", AcceleratorConfig())

    @property
    def precision(self) -> Literal["fp32", "bf16", "fp16"]:
        """Precision of the forward passes."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    @property
    def monitor(self) -> Monitor:
        """The metric by which one evaluation is better than another."""
        # As Trainer does: what ends in "loss" shall fall, unless the user says so.
        name = (self.metric_for_best_model or "loss").removeprefix("eval_")
        greater = not name.endswith("loss") if self.greater_is_better is None else self.greater_is_better
        return Monitor(name, greater_is_better=greater)

    def steps_per_epoch(self, *, rows: int, splits: bool) -> int:
        """Return the lower steps of one pass over the rows of the lower level."""
        below = rows * self.split_ratio if splits else rows
        return max(1, math.ceil(below / (self.per_device_train_batch_size * self.gradient_accumulation_steps)))

    def fit_settings(
        self, *, rows: int, splits: bool, defaults: Mapping[str, Any] = MappingProxyType({})
    ) -> FitSettings:
        """Return the settings of ``fit`` for so many training rows, which a method with ``defaults`` splits or not."""
        # An epoch is a pass of the lower level over D1: the upper level reads its rows at its own pace.
        by_epochs = math.ceil(self.num_train_epochs * self.steps_per_epoch(rows=rows, splits=splits))
        steps = max(1, by_epochs) if self.max_steps == -1 else self.max_steps
        return FitSettings(
            steps=steps,
            unroll_steps=OPEN if self.unroll_steps is None else self.unroll_steps,
            hypergradient=named(self.hypergradient) if self.hypergradient else OPEN,
            lower=self._level("lower", steps, defaults),
            upper=self._level("upper", steps, defaults),
            split_ratio=self.split_ratio,
            refresh=self.split_refresh,
            validate_every=0 if self.eval_strategy == "no" else NEVER,
            early_stopping=self.early_stopping_patience,
            keep_best=self.load_best_model_at_end,
            save_every=0 if self.save_strategy == "no" else NEVER,
            save_total_limit=self.save_total_limit or 0,
            precision=self.precision,
            group_by_length=self.train_sampling_strategy == "group_by_length",
            on_out_of_memory="halve" if self.auto_find_batch_size else "stop",
            device="cpu" if self.use_cpu else "auto",
            seed=self.seed,
        )

    def _level(self, level: Literal["lower", "upper"], steps: int, defaults: Mapping[str, Any]) -> LevelSettings:
        lower = level == "lower"
        batch = self.per_device_train_batch_size
        schedule = str(SchedulerType(self.lr_scheduler_type).value).removesuffix("_with_warmup")
        # Half a step less: the levels round up, and a quotient may come out a little too large.
        share = self.warmup_steps if self.warmup_steps < 1 else (self.warmup_steps - 0.5) / steps
        settings = LevelSettings(
            learning_rate=self.learning_rate if lower else self.upper_learning_rate,
            weight_decay=self.weight_decay if lower else self.upper_weight_decay,
            batch_size=batch if lower or self.upper_train_batch_size is None else self.upper_train_batch_size,
            # transformers' argument is of the steps that it counts, which are those of the lower level.
            accumulation=self.gradient_accumulation_steps if lower else 1,
            schedule=cast(Schedule, schedule),
            warmup=share or self.warmup_ratio,
            gradient_clipping=self.max_grad_norm,
        )
        if lower:
            return settings
        # What transformers' arguments say of the lower level, the upper one of most methods takes as well.
        own = {name.removeprefix("upper."): value for name, value in defaults.items() if name.startswith("upper.")}
        if self.upper_train_batch_size is not None:
            own.pop("batch_size", None)
        return dataclasses.replace(settings, **own)
