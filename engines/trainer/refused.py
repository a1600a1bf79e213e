"""What transformers' Trainer has and a training on two levels has not, with what to do instead."""

from collections.abc import Mapping
from typing import Any

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from bilora.errors import SettingsError

ADAMW = "each level has an AdamW of its own"
COUNTED = "the steps are counted by the levels; call it, or write a callback"

# Methods of Trainer that a training on two levels does not call: one that a subclass overrides would do nothing.
NOT_CALLED = {
    "training_step": "override compute_loss, or write a method in a file of its own",
    "create_scheduler": "each level has a schedule of its own",
    "create_optimizer_and_scheduler": "each level has an AdamW and a schedule of its own",
    "get_optimizer_cls_and_kwargs": ADAMW,
    "get_decay_parameter_names": "the weight decay is that of all the parameters of the lower level",
    "get_train_dataloader": "each level draws batches of its own rows; give a data_collator or an upper_dataset",
    "get_batch_samples": "each level draws batches of its own rows; give a data_collator or an upper_dataset",
    "get_total_train_batch_size": COUNTED,
    "set_initial_training_values": COUNTED,
    "floating_point_ops": "operations are not counted here",
    "store_flos": "operations are not counted here",
}

# Arguments of Trainer that mean nothing on two levels, with the reason.
NOT_TAKEN = {
    "optimizers": "each level is trained by AdamW",
    "optimizer_cls_and_kwargs": "each level is trained by AdamW",
}


def refuse_trainer(kind: type[Trainer], refused: Mapping[str, Any]) -> None:
    """Refuse by name: an argument or a method that is taken and does nothing costs its user a day."""
    for name, value in refused.items():
        if name not in NOT_TAKEN:
            raise TypeError(f"BilevelTrainer got an unexpected argument {name!r}")
        # transformers' own default of optimizers is a pair of nothing.
        if value is not None and value != (None, None):
            raise SettingsError(f"BilevelTrainer takes no {name}: {NOT_TAKEN[name]}")
    for name, instead in NOT_CALLED.items():
        if getattr(kind, name) is not getattr(Trainer, name):
            raise SettingsError(f"{kind.__name__} overrides {name}, which is not called on two levels: {instead}")


def refuse_generation(kind: type[Trainer], args: TrainingArguments) -> None:
    """Refuse arguments of generation for a trainer that only scores, and the other way round."""
    generates = issubclass(kind, Seq2SeqTrainer)
    if generates and not isinstance(args, Seq2SeqTrainingArguments):
        raise SettingsError(
            f"args is a {type(args).__name__}; {kind.__name__} takes BilevelSeq2SeqTrainingArguments, or plain "
            "Seq2SeqTrainingArguments"
        )
    if getattr(args, "predict_with_generate", False) and not generates:
        raise SettingsError("predict_with_generate is true, and this trainer only scores; take BilevelSeq2SeqTrainer")
