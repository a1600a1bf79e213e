"""A variant: two level classes, their settings, and the adapter they train."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import PeftModel
from torch import nn

from bilora.adapter.config import pattern_fault
from bilora.adapter.pruning import Cut
from bilora.data.row_marks import ROW_MARKS, TrainingRows
from bilora.errors import SettingsError
from bilora.problems.levels.betty_problem import Companion
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.levels.upper import UpperProblem
from bilora.problems.stage import Stage
from bilora.settings.arguments import check_fields


@dataclass(frozen=True)
class AdapterSettings:
    """The settings of every low-rank adapter, in PEFT's terms.

    Args:
        rank: Rank r of every adapted layer.
        alpha: The update is scaled by alpha / rank.
        dropout: Dropout on the input of the adapter, from 0 to 1.
        target_modules: Names (or one regular expression, or ``all-linear``) of the layers to adapt; None takes
            PEFT's choice for the architecture, which is query and value.
        modules_to_save: Names of modules that are trained whole and saved, beside the task head that PEFT knows.

    Raises:
        SettingsError: A value is out of range; all faults are named.

    Example:
        >>> AdapterSettings(rank=0, dropout=2.0)
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: adapter: rank is 0, it must be at least 1; dropout is 2.0, it must be in [0, 1)
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "adapter")
        faults = self.faults()
        if faults:
            raise SettingsError("adapter: " + "; ".join(faults))

    @property
    def own_modules_to_save(self) -> list[str] | None:
        """The modules to save, as a new list."""
        # PEFT adds the names of its task heads to the list that a config is given.
        return None if self.modules_to_save is None else list(self.modules_to_save)

    @property
    def own_row_weights(self) -> str | None:
        """The setting by which the method weighs rows by itself, or None; a run's own weights are refused beside it."""
        return None

    def faults(self) -> list[str]:
        """Return one sentence per value that is out of range; a subclass adds those of its own settings."""
        faults = []
        if self.rank < 1:
            faults.append(f"rank is {self.rank}, it must be at least 1")
        # Each range is written so that NaN is outside.
        if not 0 < self.alpha < math.inf:
            faults.append(f"alpha is {self.alpha}, it must be positive")
        if not 0 <= self.dropout < 1:
            faults.append(f"dropout is {self.dropout}, it must be in [0, 1)")
        if isinstance(self.target_modules, str) and (fault := pattern_fault(self.target_modules)):
            faults.append(f"target_modules is {fault}")
        if self.target_modules == []:
            faults.append("target_modules is [], name at least one layer, or leave it out")
        return faults

    def negative_faults(self, *names: str) -> list[str]:
        """Return one sentence for each of these settings that is negative or not finite."""
        values = {name: getattr(self, name) for name in names}
        wrong = {name: value for name, value in values.items() if value is not None and not 0 <= value < math.inf}
        return [f"{name} is {value}, it must not be negative" for name, value in wrong.items()]


@dataclass(frozen=True)
class Variant:
    """A method as data, from which the engine builds and runs it.

    Args:
        name: Its name in tables and files.
        lower: The lower level, or the only one.
        upper: The upper level; None for a single-level method, which then trains on all the data.
        settings: A frozen dataclass of the variant's settings; both levels have it as ``cfg``.
        adapt: ``adapt(model, settings, task_type=..., steps=...)`` returns the model with the adapter on it.
        plan: ``plan(settings)`` returns the variant's own stages; None for a single stage of ``lower`` and ``upper``.
        ending: How a run ends unless the user chooses, see :data:`bilora.engines.endings.ENDINGS`.
        cut: Ranks to cut before the lower level is retrained, for a variant that selects among rank-one terms.
        has_values: Whether its adapter is a BiLoRA one, whose ranks can be cut by its singular values.
        companion: ``companion(model, settings, rows)`` returns the module that is learned beside the adapter; every
            level of every stage has it as ``companion``. ``rows`` says how many training rows, classes and sources
            there are, see :class:`~bilora.data.row_marks.TrainingRows`.
        row_marks: What every training batch is to hold beside the model's inputs, for a ``training_step`` to take off:
            ``row_ids``, the position of each row among the run's training rows as they were read, and ``sources``, its
            index among the run's sources, where rows name them.
        own_loss: Whether the lower level computes its loss from logits and labels, with what the upper level learns in
            it and nowhere else. Rows then need one class each, and weights of classes have no effect on that loss.
        hypergradient: The only approximation that the variant runs with; None takes the run's.
        defaults: Settings of training by name, of a level with a dot (``upper.schedule``), that the variant has where
            the user leaves them out; see :class:`~bilora.engines.settings.FitSettings` for which they can be.

    Example:
        >>> from bilora.problems.catalog import VARIANTS
        >>> [stage.name for stage in VARIANTS["bilora"].stages(None)]
        ['bilevel']
    """

    name: str
    lower: type[LowerProblem]
    upper: type[UpperProblem] | None
    settings: Callable[..., Any]
    adapt: Callable[..., PeftModel]
    plan: Callable[[Any], tuple[Stage, ...]] | None = None
    ending: str | Mapping[str, Any] = "keep"
    cut: Cut | None = None
    has_values: bool = False
    companion: Callable[[nn.Module, Any, TrainingRows], Companion] | None = None
    row_marks: tuple[str, ...] = ()
    own_loss: bool = False
    hypergradient: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.row_marks if name not in ROW_MARKS]:
            known = ", ".join(ROW_MARKS)
            raise SettingsError(f"variant {self.name!r}: row_marks has {unknown[0]!r}; known: {known}")

    def stages(self, settings: Any) -> tuple[Stage, ...]:
        """Return the variant's own stages, without those that its ending adds."""
        self.check_settings(settings)
        # Asked with the settings, on which the length of a stage or its patience may depend.
        if self.plan is not None:
            return self.plan(settings)
        return (Stage("single" if self.upper is None else "bilevel", self.lower, self.upper),)

    def check_settings(self, settings: Any) -> None:
        """Refuse settings of another class than the variant's; None stands for its defaults."""
        # A user's own may make them by a function.
        if settings is not None and isinstance(self.settings, type) and not isinstance(settings, self.settings):
            raise SettingsError(
                f"variant_settings is {settings!r}; method {self.name!r} takes {self.settings.__name__}(...), or None "
                "for its defaults"
            )

    def check_rows(self, rows: TrainingRows) -> None:
        """Refuse training rows that lack what the variant learns from."""
        if self.own_loss and not rows.class_counts:
            raise SettingsError(
                f"method {self.name!r} needs one class per row; it trains no regression, token classification, "
                "generation or task of several labels per text: choose another method for those"
            )

    def splits_rows(self, settings: Any) -> bool:
        """Return whether one of the variant's own stages needs the rows divided into D1 and D2."""
        return any(stage.splits for stage in self.stages(settings))
