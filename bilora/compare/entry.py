"""One line of a comparison: a method under a label of its own, its settings, and the candidates to choose among."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bilora.engines.settings import LevelSettings
from bilora.errors import SettingsError
from bilora.problems.catalog import find_variant
from bilora.runs.config import RunConfig
from bilora.settings.checked import resolved
from bilora.settings.lookup import did_you_mean
from bilora.settings.sections import build_section

LEVELS = ("lower", "upper")
NOT_OURS = ("method", "method_settings", "seeds", "output", "resume")
"""Settings of a run that a comparison decides itself."""

NO_OPTIONS = (
    *(name for name in NOT_OURS if name != "method_settings"),
    "early_stopping",
    "keep_best",
    "shard_base",
    "allow_config_change",
    "debug",
)
"""Settings of a run that a comparison decides itself, refuses, or has no use for: they are no options of it."""


@dataclass(frozen=True)
class Entry:
    """One line of a comparison.

    Args:
        method: Name of the variant; None takes the entry's label.
        settings: The variant's own settings, beside those of the comparison's ``run.method_settings``.
        run: Settings of the run that differ from the comparison's, by name or by dotted name.
        grid: The candidates, each a mapping of settings by dotted name (``lower.learning_rate``; the variant's own
            begin with ``settings.``). None makes one of each of the comparison's learning rates.

    Example:
        >>> Entry(method="bilora", run={"refresh": 1}).config(RunConfig(), "bilora-refresh").refresh
        1
    """

    method: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    grid: list[dict[str, Any]] | None = None

    def candidates(self, run: RunConfig, learning_rates: list[float]) -> list[dict[str, Any]]:
        """Return the settings to choose among, one mapping a candidate.

        A learning rate is that of the lower level, or of the only one; the upper one's keeps its ratio to it.

        Args:
            run: What :meth:`config` returns.
            learning_rates: Those of the comparison.
        """
        if self.grid is not None:
            return self.grid
        if find_variant(run.method[0]).upper is None:
            return [{"lower.learning_rate": each} for each in learning_rates]
        ratio = run.upper.learning_rate / run.lower.learning_rate if run.lower.learning_rate else 0.0
        # Ten digits: a ratio of decimal numbers is not a decimal number.
        return [
            {"lower.learning_rate": each, "upper.learning_rate": float(f"{each * ratio:.10g}")}
            for each in learning_rates
        ]

    def config(self, run: RunConfig, label: str, *, chosen: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the config of the entry's runs, with all their settings checked.

        Args:
            run: The comparison's run.
            label: The entry's name.
            chosen: One of the candidates.

        Raises:
            SettingsError: A setting is unknown, not the entry's to decide, or not allowed.
        """
        method = self.method or label
        values = {**self.run, **(chosen or {})}
        own = {
            name.removeprefix("settings."): values.pop(name) for name in list(values) if name.startswith("settings.")
        }
        shared = run.method_settings.get(method, {})
        settings = {"method": [method], "method_settings": {method: {**shared, **self.settings, **own}}}
        try:
            return dataclasses.replace(_replaced(run, values), **settings)  # type: ignore[arg-type]
        except SettingsError as error:
            raise SettingsError(f"entry {label!r}: {error}") from error


def _replaced(run: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the run with settings replaced, their types checked as those of a file are."""
    plain: dict[str, Any] = {}
    levels: dict[str, dict[str, Any]] = {name: {} for name in LEVELS}
    for key, value in values.items():
        section, _, name = key.partition(".")
        if section in LEVELS:
            levels[section] |= {name: value} if name else dict(value)
        else:
            plain[key] = value
    _refuse(plain)
    for name, own in levels.items():
        if own:
            plain[name] = build_section(LevelSettings, {**resolved(getattr(run, name)), **own}, kind=name)
    before = {each.name: getattr(run, each.name) for each in dataclasses.fields(run)}
    # The method is put in afterwards; until then nothing must be asked of the run's default ones.
    return build_section(RunConfig, {**before, **plain}, kind="run")


def _refuse(plain: Mapping[str, Any]) -> None:
    for key in plain:
        if key in NOT_OURS:
            raise SettingsError(f"run.{key} is not for an entry to decide; allowed: any other setting of a run")
        if "." in key:
            allowed = [f"{level}.{each.name}" for level in LEVELS for each in dataclasses.fields(LevelSettings)]
            raise SettingsError(
                f"there is no setting {key!r}; with a dot there are settings.NAME and {', '.join(allowed)}."
                f"{did_you_mean(key, allowed)}"
            )
