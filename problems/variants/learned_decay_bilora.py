"""BiLoRA whose upper level learns the weight decays of the lower one beside the pseudo singular values."""

from dataclasses import dataclass

from torch import nn

from bilora import level_parameters
from bilora.data.row_marks import TrainingRows
from bilora.problems.variant import Variant
from bilora.problems.variants.bilora import BiloraLower, BiloraSettings, BiloraUpper, adapt
from bilora.problems.variants.learned_decay import DecayedLower, DecayUpper, LearnedDecaySettings, build_decays
from bilora.problems.variants.weight_decays import WeightDecays


@dataclass(frozen=True)
class LearnedDecayBiloraSettings(LearnedDecaySettings, BiloraSettings):
    """The settings of both."""


class DecayedBiloraLower(DecayedLower, BiloraLower):
    """P, Q and the task head, each tensor under its learned decay."""


class DecayBiloraUpper(DecayUpper, BiloraUpper):
    """Pseudo singular values, by the run's hypergradient, and decays, in closed form."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the values, and last the logarithms of the decays."""
        # The decays last: optimizer_groups and implicit_term of DecayUpper take the last one for theirs.
        return {**BiloraUpper.level_parameters(self), **DecayUpper.level_parameters(self)}


def companion(model: nn.Module, settings: LearnedDecayBiloraSettings, rows: TrainingRows) -> WeightDecays:
    """Return a decay for everything on the lower level."""
    return build_decays(level_parameters(model).lower, settings)


VARIANT = Variant(
    "learned_decay_bilora",
    DecayedBiloraLower,
    DecayBiloraUpper,
    LearnedDecayBiloraSettings,
    adapt,
    ending="retrain",
    has_values=True,
    companion=companion,
)
