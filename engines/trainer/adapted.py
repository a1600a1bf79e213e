"""The adapter of a trainer's model: the one that is there, the one that is asked for, or the method's own."""

import warnings
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from bilora.errors import SettingsError
from bilora.models.pretrained import quiet_peft
from bilora.problems.variant import Variant

# PEFT's task types, by the tables in which transformers has the names of the model classes.
TASK_TYPES = {
    "SEQ_CLS": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "CAUSAL_LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}


def adapted(
    model: Any, peft_config: PeftConfig | None, variant: Variant, variant_settings: Any, *, steps: int, says: bool
) -> PeftModel:
    """Return the model with an adapter on it; ``says`` whether a notice tells of one that nobody asked for."""
    if peft_config is not None:
        with quiet_peft():
            model = get_peft_model(model, peft_config)
    if isinstance(model, PeftModel):
        return model
    task_type, settings = task_type_of(model), variant_settings or variant.settings()
    with quiet_peft():
        new: PeftModel = variant.adapt(model, settings, task_type=task_type, steps=steps)
    if says:
        config: Any = new.peft_config[new.active_adapter]
        warnings.warn(
            f"the model has no adapter, and gets that of method {variant.name!r}: {type(config).__name__}(r={config.r}"
            f", task_type={task_type!r}); give peft_config, or a model from peft.get_peft_model, for another one",
            UserWarning,
            stacklevel=4,
        )
    return new


def task_type_of(model: Any) -> str:
    """Return PEFT's task type of a model of transformers.

    Raises:
        SettingsError: The model's class is of no task that PEFT knows a head for.
    """
    if isinstance(model, PreTrainedModel):
        # A user's own class inherits from one of transformers.
        names = [kind.__name__ for kind in type(model).__mro__]
        for name in names:
            for task_type, classes in TASK_TYPES.items():
                if name in classes.values():
                    return task_type
    raise SettingsError(
        f"model is a {type(model).__name__} without an adapter, and its class does not say what its task is; give "
        "peft_config, such as BiloraConfig(task_type='SEQ_CLS', init_weights='lora'), or a model from "
        "peft.get_peft_model"
    )
