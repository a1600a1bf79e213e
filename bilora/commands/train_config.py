"""The configuration of ``bilora train``: that of a run, with defaults that need no thought."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from bilora.engines.callbacks.trackers import check_loggers
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.errors import SettingsError
from bilora.runs.config import RunConfig
from bilora.runs.rows import is_left_to_upper
from bilora.settings.sections import refuse_faults
from bilora.tasks.labels import LabelledFiles

VALIDATIONS = 20
"""Validations of a run whose user does not say how often."""

LEAST_STEPS = 40

HELD_OUT = 0.1
"""Share of the rows that is held out for validation where D2 cannot be watched and no other is given."""


def _own_method_settings() -> dict[str, dict[str, Any]]:
    return {"bilora": {"formulation": "real", "normalized": True, "orthogonality": 0.0}}


def _own_hypergradient() -> dict[str, Any]:
    return {"name": "darts", "finite_difference": "forward"}


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One method on one task, and how it is trained.

    Args:
        text_columns: The columns of the files with the text, one or two; None takes ``text``, ``sentence1`` and
            ``sentence2`` and other usual names, or else the columns that hold text.
        validation_share: Share of ``train_file`` that is held out where there is no ``validation_file``. 0 holds none
            out: D2 is watched, on which the upper level is trained too. -1 is 0 where a split that stays leaves D2 to
            the upper level alone, and a tenth for other methods.
        method: Name of the variant, or ``package.module:NAME``.
        seeds: The seed; ``--seed`` is the same.
        steps: Lower optimizer steps; -1 takes ``epochs``.
        epochs: Passes of the lower level over its rows, where ``steps`` is -1.
        refresh: Draw a new split every so many epochs of the lower level; 0 keeps the first, -1 does so where D2 is
            watched, and is 1 elsewhere.
        validate_every: Lower steps between two validations; -1 validates twenty times, 0 at the end only.
        watch: What early stopping and keep_best look at: the ``loss`` on the validation rows or on D2, or the task's
            ``score`` there.
        output: Folder of the run; None takes the next free ``runs/<task>-N``.
        report_to: Trackers that get every number beside ``metrics.jsonl``: ``tensorboard``, ``wandb``, ``trackio``,
            ``mlflow``; each is a package to install.
        self_check: Whether the adapter is loaded into a fresh model at the end, which must give the same outputs.
        push_to_hub: Whether the adapter goes to the hub at the end, into a private repository.
        hub_model_id: The repository, ``name/model``.

    Raises:
        SettingsError: A value is unknown or out of range.

    Example:
        >>> TrainConfig().steps_for(500)
        250
    """

    validation_share: float = -1.0
    method: list[str] = field(default_factory=lambda: ["bilora"])
    method_settings: dict[str, dict[str, Any]] = field(default_factory=_own_method_settings)
    hypergradient: str | dict[str, Any] = field(default_factory=_own_hypergradient)
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: int = -1
    epochs: float = 10.0
    lower: LevelSettings = field(default_factory=lambda: LevelSettings(learning_rate=3e-3))
    upper: LevelSettings = field(default_factory=lambda: LevelSettings(learning_rate=0.1))
    refresh: int = -1
    validate_every: int = -1
    early_stopping: int = 5
    keep_best: bool = True
    watch: Literal["loss", "score"] = "loss"
    report_to: list[str] = field(default_factory=list)
    self_check: bool = True
    push_to_hub: bool = False
    hub_model_id: str | None = None

    def __post_init__(self) -> None:
        """Check everything that can be checked before any file is read."""
        checks = (
            ("method", "one is trained; bilora compare runs several", len(self.method) == 1),
            ("seeds", "one run has one seed; bilora compare runs several", len(self.seeds) == 1),
            ("steps", "it must be at least 1, or -1 to go by epochs", self.steps >= 1 or self.steps == -1),
            ("epochs", "it must be positive", 0 < self.epochs < math.inf),
            ("validate_every", "it must not be negative, but for -1", self.validate_every >= -1),
            ("validation_share", "it must be at least 0 and below 1, or -1", _is_share(self.validation_share)),
            ("refresh", "it must not be negative, but for -1", self.refresh >= -1),
            ("watch", "allowed: loss, score", self.watch in ("loss", "score")),
            (
                "self_check",
                "it runs the model in the first process alone, and shard_base cuts that up; set it to false",
                not (self.self_check and self.shard_base),
            ),
            ("hub_model_id", "push_to_hub needs it", self.hub_model_id is not None or not self.push_to_hub),
        )
        refuse_faults("config", self, checks)
        if self.validate_every == 0 and (self.early_stopping or self.keep_best):
            raise SettingsError(
                "config: validate_every is 0, and early_stopping and keep_best look at validations during the run; set "
                "it, or --early-stopping 0 --keep-best false"
            )
        check_loggers(self.report_to)
        super().__post_init__()

    def fit_settings(self, *, seed: int) -> FitSettings:
        """Return the part of the config that :func:`~bilora.engines.training.fit.fit` takes, as far as it is known."""
        every = 1 if self.validate_every == -1 else self.validate_every
        known: dict[str, Any] = {
            "steps": max(self.steps, 1),
            "validate_every": every,
            "refresh": max(self.refresh, 0),
        }
        names = [each.name for each in dataclasses.fields(FitSettings) if each.name not in ("seed", *known)]
        return FitSettings(seed=seed, **known, **{name: getattr(self, name) for name in names})

    def labelled_files(self) -> LabelledFiles | None:
        """Return the files to read in place of a task, or None, also where the columns are not known yet."""
        return None if self.text_columns is None else self.run_config().labelled_files()

    @property
    def watches_upper(self) -> bool:
        """Whether D2 stands in for validation rows: none are given, and none of ``train_file`` are held out."""
        if self.train_file is None or self.validation_file is not None or self.validation_share > 0:
            return False
        return self.validation_share == 0 or is_left_to_upper(self)

    def steps_for(self, rows: int, *, processes: int = 1) -> int:
        """Return the lower steps for that many training rows: ``steps``, or as many as ``epochs`` makes.

        Args:
            rows: Training rows, D1 and D2 together.
            processes: How many processes read them together, each in batches of its own.
        """
        if self.steps != -1:
            return self.steps
        batch = self.lower.batch_size * self.lower.accumulation * processes
        return max(LEAST_STEPS, round(self.epochs * self.split_ratio * rows / batch))

    def run_config(self, *, steps: int | None = None, text_columns: tuple[str, ...] | None = None) -> RunConfig:
        """Return the config of the run, with what this one leaves open.

        Args:
            steps: Lower steps; None where they are not known yet.
            text_columns: Columns of the text; None for those of this config.
        """
        own = {each.name: getattr(self, each.name) for each in dataclasses.fields(RunConfig)}
        own["steps"] = max(self.steps, 1) if steps is None else steps
        if text_columns is not None:
            own["text_columns"] = list(text_columns)
        if self.validation_share == -1:
            own["validation_share"] = 0.0 if self.watches_upper else HELD_OUT
        if self.refresh == -1:
            own["refresh"] = 0 if self.watches_upper else 1
        if self.validate_every == -1:
            own["validate_every"] = max(1, own["steps"] // VALIDATIONS)
        return RunConfig(**own)


def _is_share(value: float) -> bool:
    return value == -1 or 0 <= value < 1
