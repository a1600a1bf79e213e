"""A control: LoRA on D1 that stops when its loss on D2 no longer falls, the simplest use of D2 against overfitting."""

from dataclasses import dataclass, replace

from bilora.problems.levels.lower import LowerProblem
from bilora.problems.stage import Stage, Watch
from bilora.problems.variant import AdapterSettings
from bilora.problems.variants import lora


@dataclass(frozen=True)
class EarlyStoppingSettings(AdapterSettings):
    """LoRA's settings, and those of its early stopping.

    Args:
        every: Steps between two measurements of the loss on D2.
        patience: Measurements in a row without a smaller loss after which training ends.
    """

    every: int = 10
    patience: int = 5

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        # Watch would refuse them as well, but only when the stages are made, and without the faults of the adapter.
        values = {name: getattr(self, name) for name in ("every", "patience")}
        return super().faults() + [f"{name} is {n}, it must be at least 1" for name, n in values.items() if n < 1]


def plan(settings: EarlyStoppingSettings) -> tuple[Stage, ...]:
    """Return one stage on D1 that watches D2 and ends with the parameters of the smallest loss there."""
    return (Stage("d1", LowerProblem, rows="lower", watch=Watch(every=settings.every, patience=settings.patience)),)


VARIANT = replace(lora.VARIANT, name="lora_early_stopping", settings=EarlyStoppingSettings, plan=plan)
