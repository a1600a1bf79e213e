"""The baseline: PEFT's own LoRA (arXiv 2106.09685), trained on all the data."""

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from bilora.problems.levels.lower import LowerProblem
from bilora.problems.variant import AdapterSettings, Variant


def adapt(
    model: PreTrainedModel, settings: AdapterSettings, *, task_type: str | None, steps: int, use_dora: bool = False
) -> PeftModel:
    """Return the model with PEFT's LoRA, or DoRA, on it; ``steps`` does not enter."""
    # bias, initial weights and everything else stay PEFT's defaults: this is the method that its users have.
    config = LoraConfig(
        task_type=task_type,
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT says int and divides it by the rank
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        modules_to_save=settings.own_modules_to_save,
        use_dora=use_dora,
    )
    return get_peft_model(model, config)


VARIANT = Variant("lora", LowerProblem, None, AdapterSettings, adapt)
