"""Plain arguments of transformers as those of a trainer on two levels: obeyed as they are given."""

import dataclasses
import warnings
from enum import Enum
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from bilora.engines.settings import RATES
from bilora.engines.trainer.arguments import BilevelTrainingArguments
from bilora.problems.variant import Variant
from bilora.problems.variants.learned_decay import DecayedLower

# Below it rates are those of full fine-tuning, such as the 5e-5 that transformers has where none is given.
LOWEST_USUAL_RATE = 1e-4


def own_arguments(args: TrainingArguments | None) -> BilevelTrainingArguments:
    """Return the arguments of a trainer: its own as they are, plain ones with what they say of the lower level.

    Raises:
        SettingsError: An argument means nothing on two levels.
    """
    if args is None:
        return BilevelTrainingArguments("tmp_trainer")  # transformers' own folder where none is named
    if isinstance(args, BilevelTrainingArguments):
        return args
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(args) if field.init}
    # In the user's words: of an argument that is refused, the message says what came.
    given = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
    # Plain arguments have one number for the warm-up, and where it is 0 there is none.
    given["warmup_ratio"] = 0.0
    if given.get("hub_strategy") == HubStrategy.EVERY_SAVE:
        given["hub_strategy"] = "end"  # it stands where the user has said nothing
    if args.learning_rate < LOWEST_USUAL_RATE:
        warnings.warn(
            f"learning_rate is {args.learning_rate}, as given; rates below {LOWEST_USUAL_RATE} are meant for full "
            f"fine-tuning, and an adapter learns little at them: BilevelTrainingArguments has {RATES['lower']}",
            UserWarning,
            stacklevel=3,
        )
    own: BilevelTrainingArguments = _kind_for(type(args))(**given)
    return own


def tell_learned_decays(args: BilevelTrainingArguments, variant: Variant) -> None:
    """Say where a weight decay that is given has no effect, since the method learns its own."""
    if args.weight_decay and issubclass(variant.lower, DecayedLower):
        warnings.warn(
            f"weight_decay is {args.weight_decay}, and method {variant.name!r} learns its weight decays; give "
            "variant='bilora' for one that takes yours",
            UserWarning,
            stacklevel=3,
        )


def _kind_for(kind: type[TrainingArguments]) -> Any:
    """Return the class of arguments that has the fields of a user's own class beside those of two levels."""
    if kind is TrainingArguments:
        return BilevelTrainingArguments
    return dataclasses.dataclass(type(f"Bilevel{kind.__name__}", (BilevelTrainingArguments, kind), {}))
