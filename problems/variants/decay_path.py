"""Weight decays whose answer is the mean of their path, or their start where the path says nothing."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bilora.problems.variants.weight_decays import WeightDecays

# With fewer rows the error of D2's mean loss is above a quarter of what the losses of single rows differ by.
FEWEST_ROWS = 16
# Standard errors from zero at which a mean gradient counts.
SIGNIFICANT = 2.0


@dataclass(frozen=True)
class PathReading:
    """What the path of one logarithm of a decay says."""

    # The mean over the last steps, and by how much of a random walk's standard deviation that is off the start.
    mean: float
    walks: float
    # The mean gradient over the last steps, in its standard errors.
    errors: float

    @property
    def says_nothing(self) -> bool:
        """Whether it neither went farther than chance goes, nor is still drawn in one direction."""
        # A path that has arrived has no mean gradient any more, but it went somewhere.
        return self.walks < 1 and self.errors < SIGNIFICANT


def read_path(path: Tensor, gradients: Tensor, *, start: float, rate: float, share: float) -> PathReading:
    """Return the reading of a path ``(steps,)`` with the gradient before each step, averaged over its last ``share``.

    Gradients without a mean take Adam, at a constant ``rate``, along a random walk: it divides them by their size, so
    that N steps have a standard deviation of ``rate sqrt(N)``, and the mean over the last share a of them one of
    ``rate sqrt(N (1 - 2 a / 3))``: N (1 - a) up to there, and a N / 3 for the mean of a walk that begins there.
    """
    steps = len(path)
    last = max(1, round(share * steps))
    mean = path[-last:].double().mean().item()
    walk = rate * math.sqrt(steps * (1 - 2 * last / (3 * steps))) if last > 1 else rate * math.sqrt(steps)
    distance = abs(mean - start)
    return PathReading(mean, distance / walk if walk else math.inf, _errors_from_zero(gradients[-last:].double()))


def _errors_from_zero(gradients: Tensor) -> float:
    if len(gradients) < 3:
        return 0.0
    off = gradients - gradients.mean()
    squares = off.square().sum().item()
    if squares == 0:
        return math.inf if gradients[0] else 0.0
    # Batches of one D2, at models that change slowly, are no independent draws: by their correlation with the one
    # before, n of them count as n (1 - r) / (1 + r).
    r = min(max((off[1:] * off[:-1]).sum().item() / squares, 0.0), 0.99)
    count = len(gradients) * (1 - r) / (1 + r)
    deviation = math.sqrt(squares / (len(gradients) - 1))
    return abs(gradients.mean().item()) * math.sqrt(count) / deviation


class DecayPath(WeightDecays):
    """Decays by group, with what every upper step made of them and by which gradient."""

    def __init__(self, *args: Any, rate: float, share: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.start = self.log_decay.detach()[0].item()
        self.rate, self.share = rate, share
        # Of D2, as far as an upper step has seen it.
        self.upper_rows = 0
        # A pair (2, groups) per upper step: the logarithms after it, and their gradient before it.
        self._path: list[Tensor] = []

    @torch.no_grad()
    def note(self, gradient: Tensor, *, upper_rows: int) -> None:
        """Add a step that has just been made to the path."""
        self.upper_rows = upper_rows
        self._path.append(torch.stack([self.log_decay, gradient.to(self.log_decay)]))

    @property
    def too_few_rows(self) -> bool:
        """Whether D2 is too small for anything to be learned on it."""
        return self.upper_rows < FEWEST_ROWS

    def readings(self) -> dict[str, PathReading]:
        """Return what the path of each group says; nothing before the first upper step."""
        if not self._path:
            return {}
        path, gradients = self._stacked().unbind(1)
        return {
            group: read_path(path[:, g], gradients[:, g], start=self.start, rate=self.rate, share=self.share)
            for g, group in enumerate(self.members)
        }

    def fallen_back(self) -> list[str]:
        """Return the groups whose decay stays at its start, since nothing was learned of it."""
        readings = self.readings()
        return [g for g in self.members if self.too_few_rows or g not in readings or readings[g].says_nothing]

    def answers(self) -> dict[str, float]:
        """Return the logarithm of the decay of each group: the mean of its path, or its start."""
        readings, back = self.readings(), self.fallen_back()
        return {group: self.start if group in back else readings[group].mean for group in self.members}

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        """Make the answers the decays, with which the lower level starts anew."""
        self.log_decay.copy_(torch.tensor(list(self.answers().values()), dtype=torch.float64))

    def learned(self) -> dict[str, Any]:
        """Return the answers by group and by tensor, and in words."""
        decays = {group: min(math.exp(answer), self.cap) for group, answer in self.answers().items()}
        by_group = list(decays.values())
        by_tensor = {name: by_group[group] for name, group in zip(self.names, self._group_of, strict=True)}
        back = self.fallen_back()
        words = ", ".join(f"{group}: decay {decay:.3g}" for group, decay in decays.items())
        if self.too_few_rows:
            words += f"; as at the start, since D2 has fewer than {FEWEST_ROWS} rows"
        elif back:
            words += f"; of {', '.join(back)} as at the start, since D2 does not say in which direction to go"
        return {"weight_decays": by_tensor, "decays": decays, "fallen_back": back, "words": words}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the path."""
        return {"path": self._stacked(), "upper_rows": self.upper_rows}

    def set_extra_state(self, state: Any) -> None:
        """Go on with a path."""
        self._path, self.upper_rows = list(state["path"]), state["upper_rows"]

    def _stacked(self) -> Tensor:
        # On the CPU: what was loaded is there, and what was noted since may be on another device.
        steps = [step.detach().cpu() for step in self._path]
        return torch.stack(steps) if steps else torch.empty(0, 2, len(self.members))
