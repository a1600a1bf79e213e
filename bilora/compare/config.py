"""The configuration of a comparison: what a YAML file or the words of ``bilora compare`` may say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from bilora.engines.settings import LevelSettings
from bilora.errors import SettingsError
from bilora.problems.catalog import find_variant
from bilora.runs.config import RunConfig
from bilora.settings.lookup import did_you_mean
from bilora.settings.sections import build_section, refuse_faults, resolved

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


@dataclass(frozen=True)
class ComparisonConfig:
    """Methods to compare at equal budget and with equally many candidates each.

    Args:
        methods: Labels of ``entries``, or names of variants.
        entries: Methods under labels of their own: ``method``, ``settings``, ``run`` and ``grid``.
        seeds: How many (5 is 0 to 4), or which ones; each draws training rows, split, head, order and masks.
        baseline: The label that the others are held against.
        learning_rates: The candidates of every method: learning rates of the lower level; the upper one's keeps its
            ratio to it.
        choose_share: Share of the training rows that is held out to choose among the candidates; the validation rows
            that are reported play no part in it.
        choose_seeds: How many of the seeds, the first ones, the candidates are tried with.
        budget: ``steps``: as many steps for every method; ``seconds``: as many steps as fit into the time that the
            baseline's steps take, by the time that the method's steps took while choosing.
        jobs: Runs at once, each with one thread.
        run: Task, data, model and everything else that the runs share.
        output: Folder of the comparison; one that is there is gone on with. None takes ``runs/compare-<task>``.
        document: A Markdown file in which the comparison's section is written, or written anew.
        debug: Whether to show where in the program an error was raised.

    Raises:
        SettingsError: A value is unknown or out of range.

    Example:
        >>> ComparisonConfig(methods=["lora"], seeds=3).seed_list
        [0, 1, 2]
    """

    methods: list[str] = field(default_factory=lambda: ["bilora", "lora"])
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: int | list[int] = 5
    baseline: str = "lora"
    learning_rates: list[float] = field(default_factory=lambda: [3e-4, 1e-3, 3e-3])
    choose_share: float = 0.2
    choose_seeds: int = 1
    budget: Literal["steps", "seconds"] = "steps"
    jobs: int = 1
    run: RunConfig = field(default_factory=RunConfig)
    output: str | None = None
    document: str | None = None
    debug: bool = False

    def __post_init__(self) -> None:
        """Check everything that can be checked before any file is read, all candidates of all entries among it."""
        rates, count = self.learning_rates, len(self.seed_list)
        checks = (
            ("methods", "give at least one", bool(self.methods)),
            ("methods", "each may stand once; give it labels in entries", len(set(self.methods)) == len(self.methods)),
            ("baseline", f"it must be one of the methods: {', '.join(self.methods)}", self.baseline in self.methods),
            ("seeds", "give at least one, each once", count > 0 and len(set(self.seed_list)) == count),
            ("seeds", "none may be negative", all(each >= 0 for each in self.seed_list)),
            ("learning_rates", "give at least one, all above 0", bool(rates) and all(each > 0 for each in rates)),
            ("choose_share", "it must be above 0 and below 1", 0 < self.choose_share < 1),
            ("choose_seeds", "it must be 1 to the number of seeds", 1 <= self.choose_seeds <= count),
            ("jobs", "it must be at least 1", self.jobs >= 1),
        )
        refuse_faults("comparison", self, checks)
        self._check_run()
        self._check_entries()

    @property
    def seed_list(self) -> list[int]:
        """The seeds, one by one."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    @cached_property
    def table(self) -> dict[str, Entry]:
        """The entry of every method that is compared, by label."""
        built = {label: build_section(Entry, own, kind=f"entry {label!r}") for label, own in self.entries.items()}
        return {label: built.get(label, Entry()) for label in self.methods}

    def candidates(self, label: str) -> list[dict[str, Any]]:
        """Return the candidates of an entry."""
        entry = self.table[label]
        return entry.candidates(entry.config(self.run, label), self.learning_rates)

    def config_of(self, label: str, chosen: dict[str, Any] | None = None) -> RunConfig:
        """Return the config of an entry's runs."""
        return self.table[label].config(self.run, label, chosen=chosen)

    def _check_run(self) -> None:
        defaults = RunConfig()
        told = [
            name
            for name in ("method", "seeds", "output", "resume")
            if getattr(self.run, name) != getattr(defaults, name)
        ]
        if told:
            raise SettingsError(
                f"comparison: run.{told[0]} is not a run's to say here; give methods, seeds and output beside run"
            )

    def _check_entries(self) -> None:
        sizes: dict[str, int] = {}
        for label in self.table:
            candidates = self.candidates(label)
            sizes[label] = len(candidates)
            for each in candidates:
                _refuse_watching(label, self.config_of(label, each))
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            said = ", ".join(f"{label} {size}" for label, size in sizes.items())
            raise SettingsError(
                f"comparison: every method needs equally many candidates, at least one; there are {said}"
            )


def _refuse_watching(label: str, run: RunConfig) -> None:
    if run.early_stopping or run.keep_best:
        raise SettingsError(
            f"entry {label!r}: early_stopping and keep_best would choose by the validation rows that are reported; "
            "leave them out, or take a method that looks at training rows, such as lora_early_stopping"
        )
