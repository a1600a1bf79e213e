"""Weight decays learned above a LoRA: how fast each lower tensor is pulled to zero is decided on D2."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bilora import trainable_parameters
from bilora.data.row_marks import TrainingRows
from bilora.errors import SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.replay.lower_step import Needs
from bilora.problems.variant import AdapterSettings, Variant
from bilora.problems.variants import lora
from bilora.problems.variants.weight_decays import WeightDecays
from bilora.tensors import Tensors


@dataclass(frozen=True)
class LearnedDecaySettings(AdapterSettings):
    """An adapter's settings, and those of the decays of its tensors.

    Args:
        decay_start: What every decay starts at, in AdamW's terms: a step takes ``learning rate * decay`` of a tensor.
        decay_cap: The largest decay.
        decay_shared: Whether one decay is learned for all tensors, the one that is otherwise searched by hand.
        decay_learning_rate: The upper level's learning rate for the logarithms of the decays: with Adam above, each
            changes by a factor of about ``exp(decay_learning_rate)`` an upper step at most.
    """

    decay_start: float = 0.1
    decay_cap: float = 50.0
    decay_shared: bool = False
    decay_learning_rate: float = 0.3

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        bounds = bounds_faults(self.decay_start, self.decay_cap)
        return super().faults() + bounds + self.negative_faults("decay_learning_rate")


def bounds_faults(start: float, cap: float) -> list[str]:
    """Return the fault of decays that start at zero, where there is no logarithm to learn, or above their cap."""
    if 0 < start <= cap < math.inf:
        return []
    return [
        f"decay_start is {start} and decay_cap {cap}; they must be positive, and the start must not be above the cap"
    ]


class DecayedLower(LowerProblem):
    """A lower level whose optimizer has one group, and so one decay, per tensor; the companion holds the decays."""

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return one group per tensor."""
        return [{"params": [parameter]} for parameter in self.trainable_parameters()]

    def patch_optimizer(self) -> None:
        """Keep the optimizer, if its groups and the decays are those of this level's tensors."""
        super().patch_optimizer()
        # Groups, decays and parameters are paired by their position in every step.
        groups = [[id(parameter) for parameter in group["params"]] for group in self.optimizer.param_groups]
        if groups != [[id(parameter)] for parameter in self.trainable_parameters()]:
            raise SettingsError(
                f"the optimizer of level {self.name!r} must have one param group for each of the level's "
                "parameters, in their order; build it over optimizer_groups()"
            )
        if decays_of(self).names != list(self.named_level_parameters()):
            raise SettingsError(f"the decays of level {self.name!r} are not those of the level's parameters")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step with the decays as the upper level has left them."""
        # Before the step is recorded: a hypergradient through it reads the decays from the groups. In a stage without
        # an upper level, as in retraining, they stay as they are.
        for group, decay in zip(self.optimizer.param_groups, decays_of(self).values(), strict=True):
            group["weight_decay"] = decay
        super().optimizer_step(*args, **kwargs)

    def extra_state(self) -> dict[str, Any]:
        """Return the logarithms of the decays, which a stage without an upper level would not save."""
        return {**super().extra_state(), "log_decay": decays_of(self).log_decay.tolist()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Set the decays."""
        super().load_extra_state({name: value for name, value in state.items() if name != "log_decay"})
        # In place: the upper level's optimizer holds this very parameter.
        with torch.no_grad():
            decays_of(self).log_decay.copy_(torch.tensor(state["log_decay"], dtype=torch.float64))


class DecayUpper(UpperProblem):
    """The logarithms of the decays on D2; what they do to the lower steps is known in closed form."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the logarithms of all the decays, as one vector."""
        return {"log_decay": decays_of(self).log_decay}

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return the decays as the last group, with a separate learning rate, and the other parameters before."""
        *others, log_decay = self.trainable_parameters()
        # No decay of the decays: it would pull them towards exp(0) = 1.
        decays = {"params": [log_decay], "lr": self.cfg.decay_learning_rate, "weight_decay": 0.0}
        return [{"params": others}, decays] if others else [decays]

    @property
    def needs(self) -> Needs:
        """The needs of the hypergradient, and the lower parameters before the last step."""
        return super().needs.joined(Needs(steps=1, parameters_before=True))

    def implicit_term(self, vector: Tensors, lower: LowerProblem) -> Tensors:
        """Return the hypergradient's term, which is zero for the decays, with theirs added: no further pass."""
        *others, last = super().implicit_term(vector, lower)
        step = lower.recorded_step()
        if not step.taken:  # it was skipped: no decay either
            return (*others, last)
        assert step.parameters_before is not None  # asked for in needs
        term = decays_of(self).implicit_term(
            vector, step.parameters_before, learning_rates=step.learning_rates, steps=lower.config.unroll_steps
        )
        return (*others, last + term)

    def take_step(self) -> None:
        """Step, and stay within the bounds."""
        super().take_step()
        decays_of(self).put_back_within_bounds()


def decays_of(level: LowerProblem | UpperProblem) -> WeightDecays:
    """Return the decays that a level has as its companion; refuse a level without any."""
    if not isinstance(level.companion, WeightDecays):
        raise SettingsError(f"level {level.name!r} learns weight decays; set its companion to the WeightDecays")
    return level.companion


def companion(model: nn.Module, settings: LearnedDecaySettings, rows: TrainingRows) -> WeightDecays:
    """Return a decay for everything that is trained."""
    return build_decays(trainable_parameters(model), settings)


def build_decays(names: Iterable[str], settings: LearnedDecaySettings) -> WeightDecays:
    """Return the decays of some tensors as the settings ask for them."""
    names = list(names)
    groups = ["all"] * len(names) if settings.decay_shared else None
    return WeightDecays(names, start=settings.decay_start, cap=settings.decay_cap, groups=groups)


VARIANT = Variant(
    "learned_decay",
    DecayedLower,
    DecayUpper,
    LearnedDecaySettings,
    lora.adapt,
    ending="retrain",
    companion=companion,
    # Nothing of the upper level enters the lower loss: there is no second derivative to approximate.
    hypergradient="first_order",
)
