"""A control for BiLoRA: vectors and head on D1 to the end, and then the values on D2, each in a single level."""

from dataclasses import dataclass, replace

from bilora.problems.levels.lower import LowerProblem
from bilora.problems.stage import Stage
from bilora.problems.variants import bilora
from bilora.problems.variants.bilora import BiloraLower, BiloraSettings, ValuesLevel


@dataclass(frozen=True)
class TwoStageSettings(BiloraSettings):
    """BiLoRA's settings, with values that start at one."""

    # At BiLoRA's start of zero the vectors, which train first and alone, would have no gradient at all.
    formulation: str = "softmax"


class ValuesAlone(ValuesLevel, LowerProblem):
    """Pseudo singular values on D2 with the vectors fixed: ``loss(D2) + gamma2 R2(E)``."""


def plan(settings: BiloraSettings) -> tuple[Stage, ...]:
    """Return both stages; each level makes as many steps as it does in BiLoRA."""
    # Equal steps on equal rows: the difference to BiLoRA is that the levels do not answer each other.
    return (Stage("vectors", BiloraLower, rows="lower"), Stage("values", ValuesAlone, rows="upper"))


VARIANT = replace(bilora.VARIANT, name="two_stage", upper=None, settings=TwoStageSettings, plan=plan)
