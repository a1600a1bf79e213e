"""A learned factor of the lower level's learning rate, and how the upper loss depends on it."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.variants.decay_path import DecayPath
from bilora.problems.variants.learned_decay_bilora import DecayedBiloraLower
from bilora.tensors import Tensors

# From 1e-4 to 2e-2 where the rate at the start is 3e-3.
SMALLEST, LARGEST = 1 / 30, 7.0


class LearnedRate(nn.Module):
    """``factor = exp(rho)``, which every lower step's learning rate is multiplied with; rho is an upper parameter.

    Its answer is that of the mean of rho over the last ``share`` of its path.
    """

    def __init__(self, *, share: float) -> None:
        super().__init__()
        self.share = share
        self.log_factor = nn.Parameter(torch.zeros(1))
        # Rho after every upper step.
        self._path: list[Tensor] = []
        self._read: tuple[int, float] | None = None

    def factor(self) -> float:
        """Return the factor as a number."""
        # Read from the device only after it has changed: every lower step asks, and reading waits for the device.
        version = self.log_factor._version
        if self._read is None or self._read[0] != version:
            self._read = version, math.exp(self.log_factor.item())
        return self._read[1]

    def implicit_term(self, vector: Tensors, before: Tensors, after: Tensors, *, steps: int) -> Tensor:
        """Return ``k <v, theta' - theta>``, of shape (1,)."""
        # AdamW takes theta to theta' = theta - exp(rho) lr (u + decay theta), where u does not depend on rho: so
        # d theta' / d rho = theta' - theta and d L2 / d rho = <v, theta' - theta> with v = d L2 / d theta'. Exact for
        # one step between two upper ones; for k of them as in WeightDecays.implicit_term.
        moved = [(v * (new.detach() - old)).sum() for v, old, new in zip(vector, before, after, strict=True)]
        return steps * torch.stack(moved).sum().reshape(1).to(self.log_factor)

    @torch.no_grad()
    def note(self) -> None:
        """Add a step that has just been made to the path, with rho put back to its bounds."""
        # Back, so that the next step away from a bound has an effect.
        self.log_factor.clamp_(min=math.log(SMALLEST), max=math.log(LARGEST))
        self._path.append(self.log_factor.detach().cpu().clone())

    def answer(self) -> float:
        """Return the factor that the path ends around; one before the first upper step."""
        if not self._path:
            return 1.0
        # Not held against a random walk, as a decay is: Adam's constant rate goes far in a few steps, comes back, and
        # then hardly moves, since the gradients shrink with the rate that the schedule lowers.
        last = max(1, round(self.share * len(self._path)))
        return math.exp(torch.cat(self._path[-last:]).double().mean().item())

    def get_extra_state(self) -> dict[str, Any]:
        """Return the path."""
        return {"path": list(self._path)}

    def set_extra_state(self, state: Any) -> None:
        """Go on with a path."""
        self._path = list(state["path"])


class RatedDecays(DecayPath):
    """Decays by group, and beside them a factor of the learning rate, if it is learned."""

    def __init__(self, *args: Any, learns_rate: bool, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.learned_rate = LearnedRate(share=self.share) if learns_rate else None

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        """Make the answers the decays and the factor, with which the lower level starts anew."""
        super().settle(model)
        if self.learned_rate is not None:
            self.learned_rate.log_factor.fill_(math.log(self.factor()))

    def factor(self) -> float:
        """Return the answer for the factor; one where D2 is too small to learn it."""
        return 1.0 if self.learned_rate is None or self.too_few_rows else self.learned_rate.answer()

    def learned(self) -> dict[str, Any]:
        """Return what the decays are, and the factor, in words too."""
        decays = super().learned()
        if self.learned_rate is None:
            return decays
        words = f"{decays['words']}; learning rate: {self.factor():.2f} of the one at the start"
        return {**decays, "rate_factor": self.factor(), "words": words}


def rate_of(level: LowerProblem | UpperProblem) -> LearnedRate | None:
    """Return what a level's companion learns of the rate; None where the rate is fixed."""
    decays = level.companion
    assert isinstance(decays, RatedDecays)  # built by the variant
    return decays.learned_rate


class RatedLower(DecayedBiloraLower):
    """P, Q and the task head, each tensor under its learned decay, and all at a rate whose factor may be learned."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step at the schedule's rate times the factor as the upper level has left it."""
        if (rate := rate_of(self)) is not None:
            for group, scheduled in zip(self.optimizer.param_groups, self._scheduled_rates(), strict=True):
                group["lr"] = scheduled * rate.factor()
        super().optimizer_step(*args, **kwargs)

    def extra_state(self) -> dict[str, Any]:
        """Return the decays and the factor, which a stage without an upper level would not save."""
        rate = rate_of(self)
        return super().extra_state() | ({} if rate is None else {"log_factor": rate.log_factor.tolist()})

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Set the decays and the factor."""
        super().load_extra_state({name: value for name, value in state.items() if name != "log_factor"})
        if (rate := rate_of(self)) is not None:
            # In place: the upper level's optimizer holds this very parameter.
            with torch.no_grad():
                rate.log_factor.copy_(torch.tensor(state["log_factor"]))

    def _scheduled_rates(self) -> list[float]:
        # Not those of the groups, which have the factor already where the last step was skipped.
        if self.learning_rate_scheduler is not None:
            return list(self.learning_rate_scheduler.get_last_lr())
        return [self.optimizer.defaults["lr"]] * len(self.optimizer.param_groups)
