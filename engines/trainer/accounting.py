"""What becomes of every argument and every method of transformers' Trainer on two levels."""

from dataclasses import dataclass
from typing import Literal

from bilora.engines.trainer.arguments import REFUSED
from bilora.engines.trainer.refused import NOT_CALLED

Answer = Literal["works", "means this here", "refused"]


@dataclass(frozen=True)
class Row:
    """A name of transformers, whether it works, and what it means here or why it is refused."""

    name: str
    answer: Answer
    words: str = ""


# Arguments that do what they do for Trainer.
ARGUMENTS_THAT_WORK = (
    *("bf16", "fp16", "tf32", "use_cache", "full_determinism", "use_cpu", "logging_strategy", "logging_steps"),
    *("logging_first_step", "log_level", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id"),
    *("trackio_bucket_id", "trackio_static_space_id", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
    *("per_device_eval_batch_size", "prediction_loss_only", "eval_do_concat_batches", "eval_accumulation_steps"),
    *("include_for_metrics", "batch_eval_metrics", "save_strategy", "save_steps", "hub_token", "hub_private_repo"),
    *("hub_model_id", "hub_revision", "metric_for_best_model", "greater_is_better", "remove_unused_columns"),
    *("label_names", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "skip_memory_metrics"),
)

ONE_PROCESS = "without effect: a trainer trains in one process"
EVALUATED = "of the batches of evaluation and prediction; the training rows are in memory"
BOTH = "of both levels; the upper level of a method that has its own keeps that, as the default method's does"

# Arguments with a meaning of their own on two levels.
ARGUMENTS: dict[str, str] = {
    "output_dir": "as in Trainer; a folder that holds an earlier training is refused, and never written over",
    "per_device_train_batch_size": "rows per micro-batch of the lower level, and of the upper one unless "
    "`upper_train_batch_size` or the method says another number",
    "num_train_epochs": "passes of the lower level over its rows, in each stage: the default method has two stages",
    "max_steps": "lower steps of each stage: the default method has two",
    "learning_rate": "of the lower level; `upper_learning_rate` is that of the upper one. A notice tells of one below "
    "1e-4 in plain `TrainingArguments`",
    "lr_scheduler_type": f"`constant`, `linear` or `cosine`, {BOTH}; others are refused",
    "warmup_steps": f"a number of lower steps, or a share of the steps where it is below 1, {BOTH}",
    "weight_decay": "of the lower level; a method that learns its weight decays, as the default does, takes those, and "
    "a notice says so",
    "gradient_accumulation_steps": "micro-batches per step of the lower level",
    "max_grad_norm": f"largest gradient norm, {BOTH}",
    "label_smoothing_factor": "in the loss of both levels",
    "auto_find_batch_size": "a level that runs out of memory halves its batch, doubles its accumulation and begins the "
    "stage again",
    "seed": "of the split, the order of the rows, the dropout masks, and of a model from `model_init`",
    "train_sampling_strategy": "`random` or `group_by_length`; `sequential` is refused",
    "save_total_limit": "the newest checkpoints are kept; the best parameters are in memory and need none",
    "load_best_model_at_end": "the best parameters are kept in memory: `save_strategy` need not match",
    "restore_callback_states_from_checkpoint": "they are always restored: a resumed training goes on to the same bits",
    "logging_nan_inf_filter": "nothing is filtered: a loss that is not finite ends the training, with its batch named",
    "push_to_hub": "`save_model` pushes the adapter; nothing is pushed during a training",
    "hub_strategy": "`end`; transformers' default, `every_save`, is taken for it, and others are refused",
    "hub_always_push": "without effect: nothing is pushed during a training",
    **dict.fromkeys(
        ("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_in_order"),
        EVALUATED,
    ),
    **dict.fromkeys(("dataloader_prefetch_factor", "dataloader_multiprocessing_context"), EVALUATED),
    **dict.fromkeys(("average_tokens_across_devices", "ddp_timeout", "local_rank", "log_on_each_node"), ONE_PROCESS),
    **dict.fromkeys(("log_level_replica", "eval_use_gather_object"), ONE_PROCESS),
    "fsdp_config": "without effect, as in Trainer where `fsdp` is not set; that one is refused",
}

# Names of Trainer that do what they do there.
METHODS_THAT_WORK = (
    *("add_callback", "pop_callback", "remove_callback", "call_model_init", "create_accelerator_and_postprocess"),
    *("end", "get_cp_size", "get_sp_size", "get_tp_size", "get_eval_dataloader", "get_test_dataloader"),
    *("get_learning_rates", "get_num_trainable_parameters", "get_optimizer_group", "init_hf_repo"),
    *("is_local_process_zero", "is_world_process_zero", "log", "log_metrics", "metrics_format", "num_examples"),
    *("predict", "prediction_step", "save_metrics", "save_state"),
)

# Names of Trainer with a meaning of their own on two levels.
METHODS: dict[str, str] = {
    "train": "trains both levels; `trial` is refused, and an interrupt ends it after a whole step, with a checkpoint, "
    "where any are saved",
    "evaluate": "the loss is the mean over rows, or over tokens with a label, whatever the batches",
    "evaluation_loop": "the loss is the mean over rows, or over tokens with a label, whatever the batches",
    "compute_loss": "of a subclass: the loss of both levels, and of evaluations; `num_items_in_batch` is not given",
    "create_optimizer": "of a subclass: the optimizer of the lower level, without the parameters of the upper one; "
    "refused for a method that learns its weight decays, as the default does",
    "compute_loss_context_manager": "of evaluations; in training each level enters the precision of the arguments",
    "autocast_smart_context_manager": "of evaluations; in training each level enters the precision of the arguments",
    "save_model": "writes the adapter folder of `bilora train`, with its model card, and no pickle",
    "push_to_hub": "refused while `diverged.json`, which holds training rows, is in the folder",
    "create_model_card": "adds language, license, tags, tasks and data sets to a card that is otherwise ours; the base "
    "model and the repository's name are known",
    "loss_is_scaled_for_ga": "without effect: each level takes the mean over its micro-batches",
}

# Refused when they are called, not when they are overridden.
NOT_THERE = {"hyperparameter_search": "`bilora compare` tunes several methods on equal budgets"}


def argument_rows() -> list[Row]:
    """Return what becomes of every argument that is accounted for, by name."""
    refused = {name: reason for reason, names in REFUSED.items() for name in names}
    return _rows(ARGUMENTS_THAT_WORK, ARGUMENTS, refused)


def method_rows() -> list[Row]:
    """Return what becomes of every public name of Trainer that is accounted for."""
    overridden = {name: f"where a subclass overrides it: {instead}" for name, instead in NOT_CALLED.items()}
    return _rows(METHODS_THAT_WORK, METHODS, {**overridden, **NOT_THERE})


def _rows(works: tuple[str, ...], means: dict[str, str], refused: dict[str, str]) -> list[Row]:
    rows = [Row(name, "works") for name in works]
    rows += [Row(name, "means this here", words) for name, words in means.items()]
    rows += [Row(name, "refused", reason) for name, reason in refused.items()]
    return sorted(rows, key=lambda row: row.name)
