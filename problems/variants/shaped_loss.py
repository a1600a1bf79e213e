"""A lower loss with a few numbers in it that are learned on D2: the numbers with their path, and both levels."""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bilora.data.row_marks import TrainingRows, without_marks
from bilora.errors import SettingsError
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.stage import Stage
from bilora.problems.variant import AdapterSettings, Variant
from bilora.problems.variants import lora
from bilora.problems.variants.decay_path import FEWEST_ROWS


@dataclass(frozen=True)
class ShapeSettings(AdapterSettings):
    """An adapter's settings, and those of the numbers that are learned on D2.

    Args:
        raw_learning_rate: Adam's constant learning rate for the raw numbers, which are logarithms or logits.
        reach: How far each of them may go from its start, either way; 4 is a factor of 55.
        average: Share of the first stage, its end, over which they are averaged; 0 takes the last ones.
    """

    raw_learning_rate: float = 0.05
    reach: float = 4.0
    average: float = 0.5

    def faults(self) -> list[str]:
        """Return the faults of all the settings."""
        faults = super().faults() + self.negative_faults("raw_learning_rate")
        if not 0 < self.reach < math.inf:
            faults.append(f"reach is {self.reach}, it must be positive")
        if not 0 <= self.average <= 1:
            faults.append(f"average is {self.average}, it is a share of the stage, in [0, 1]")
        return faults


class LossShape(Companion):
    """Raw numbers of any shape in the lower loss, with what every upper step made of them."""

    start: Tensor

    def __init__(self, start: Tensor, settings: ShapeSettings) -> None:
        super().__init__()
        self.raw = nn.Parameter(start.clone())
        # No part of a state: it follows from the settings.
        self.register_buffer("start", start.clone(), persistent=False)
        self.reach, self.share = settings.reach, settings.average
        # Of D2, as far as an upper step has seen it.
        self.upper_rows = 0
        self._path: list[Tensor] = []

    @abc.abstractmethod
    def row_losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of each row, ``(rows,)``, of the model's logits ``(rows, classes)``."""

    @torch.no_grad()
    def note(self, *, upper_rows: int) -> None:
        """Take back what went beyond the reach, and add the step that has just been made to the path."""
        self.raw.copy_(self.raw.clamp(self.start - self.reach, self.start + self.reach))
        self.upper_rows = upper_rows
        self._path.append(self.raw.detach().cpu().clone())

    @property
    def too_few_rows(self) -> bool:
        """Whether D2 is too small for anything to be learned on it."""
        return self.upper_rows < FEWEST_ROWS

    def answer(self) -> Tensor:
        """Return the mean of the last steps, or the start where D2 is too small."""
        if not self._path or self.too_few_rows:
            return self.start.cpu()
        last = max(1, round(self.share * len(self._path)))
        return torch.stack(self._path[-last:]).mean(0)

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        """Fix the answer, with which the lower level starts anew."""
        self.raw.copy_(self.answer())

    def told(self, words: str, **numbers: Any) -> dict[str, Any]:
        """Return what was learned, with words that say so where nothing was."""
        few = f"; as at the start, since D2 has fewer than {FEWEST_ROWS} rows" if self.too_few_rows else ""
        return {**numbers, "words": words + few}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the path."""
        path = torch.stack(self._path) if self._path else torch.empty(0, *self.raw.shape)
        return {"path": path, "upper_rows": self.upper_rows}

    def set_extra_state(self, state: Any) -> None:
        """Go on with a path."""
        self._path, self.upper_rows = list(state["path"]), state["upper_rows"]


class ShapedLower(LowerProblem):
    """A lower level whose loss is the mean of its companion's losses of the rows."""

    def training_step(self, batch: Any) -> Tensor:
        """Return the mean loss of the rows."""
        shape = shape_of(self)
        # In the precision of what is learned, where the model answers in half of it.
        logits = self.forward(**inputs_of(batch)).logits.to(shape.raw.dtype)
        return shape.row_losses(logits, batch).mean()


class ShapedUpper(UpperProblem):
    """The raw numbers on D2, whose loss is the model's own: they act on it through the lower steps alone."""

    def level_parameters(self) -> dict[str, nn.Parameter]:
        """Return the raw numbers."""
        return {"raw": shape_of(self).raw}

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return them with their learning rate, and without a decay, which would pull them to zero."""
        rate = self.cfg.raw_learning_rate
        # The gradients of the first steps, of a model that knows nothing yet, are many times those that follow: Adam's
        # usual memory of a thousand steps would hold every later one against them.
        return [{"params": self.trainable_parameters(), "lr": rate, "weight_decay": 0.0, "betas": (0.9, 0.95)}]

    def take_step(self) -> None:
        """Step, stay within reach, and note where that led."""
        super().take_step()
        [loader] = self.train_data_loader
        shape_of(self).note(upper_rows=len(getattr(loader, "dataset", loader)))


def shape_of(level: LowerProblem | UpperProblem) -> LossShape:
    """Return the numbers that a level has as its companion; refuse a level without any."""
    if not isinstance(level.companion, LossShape):
        raise SettingsError(f"level {level.name!r} learns the shape of a loss; set its companion to the LossShape")
    return level.companion


def inputs_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what of a batch the model answers to."""
    return {name: value for name, value in without_marks(batch).items() if name != "labels"}


def class_names(model: nn.Module, rows: TrainingRows) -> list[str]:
    """Return the name of each class, as the model has it."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    return [str(names.get(index, index)) for index in range(len(rows.class_counts))]


def shaped_variant(
    name: str,
    settings: type[ShapeSettings],
    companion: Callable[[nn.Module, Any, TrainingRows], LossShape],
    *,
    upper: type[ShapedUpper] = ShapedUpper,
    row_marks: tuple[str, ...] = (),
) -> Variant:
    """Return a variant that learns the numbers of a companion in its first stage, and trains anew with them fixed."""
    return Variant(
        name,
        ShapedLower,
        upper,
        settings,
        lora.adapt,
        plan=partial(_plan, upper),
        ending="retrain",
        own_loss=True,
        companion=companion,
        row_marks=row_marks,
        # A constant rate: with a falling one the numbers hardly move before it is too late.
        defaults={
            "upper.schedule": "constant",
            "upper.warmup": 0.0,
            "upper.batch_size": 32,
            "upper.gradient_clipping": 0.0,
        },
    )


def _plan(upper: type[ShapedUpper], settings: ShapeSettings) -> tuple[Stage, ...]:
    title = "learning the loss of the lower level"
    return (Stage("bilevel", ShapedLower, upper, title=title, is_search=True, small_upper=True),)
