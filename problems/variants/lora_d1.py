"""A control: LoRA on D1 alone, which shows what the rows of D2 are worth."""

from dataclasses import replace

from bilora.problems.levels.lower import LowerProblem
from bilora.problems.stage import Stage
from bilora.problems.variant import AdapterSettings
from bilora.problems.variants import lora


def plan(settings: AdapterSettings) -> tuple[Stage, ...]:
    """Return one stage on the rows that the lower level of a bi-level method would have."""
    # The same split by the same seed, so that the two differ in the use of D2 alone.
    return (Stage("d1", LowerProblem, rows="lower"),)


VARIANT = replace(lora.VARIANT, name="lora_d1", plan=plan)
