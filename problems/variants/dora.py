"""A baseline: PEFT's own DoRA (arXiv 2402.09353), magnitude and direction trained together on all the data."""

from dataclasses import replace

from peft import PeftModel
from transformers import PreTrainedModel

from bilora.problems.variant import AdapterSettings
from bilora.problems.variants import lora


def adapt(model: PreTrainedModel, settings: AdapterSettings, *, task_type: str | None, steps: int) -> PeftModel:
    """Return the model with PEFT's DoRA on it; ``steps`` does not enter."""
    return lora.adapt(model, settings, task_type=task_type, steps=steps, use_dora=True)


VARIANT = replace(lora.VARIANT, name="dora", adapt=adapt)
