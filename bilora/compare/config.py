"""The configuration of a comparison: what a YAML file or the words of ``bilora compare`` may say."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from bilora.engines.hypergradients.catalog import explicit
from bilora.engines.settings import LevelSettings, reopened
from bilora.errors import SettingsError
from bilora.problems.catalog import find_variant
from bilora.runs.config import RunConfig
from bilora.runs.several_runs import SharedSettings
from bilora.settings.lookup import did_you_mean
from bilora.settings.sections import BEYOND, build_section, refuse_faults, resolved

LEVELS = ("lower", "upper")
# A name, or a mapping of a name and its settings.
NAMED = ("hypergradient", "ending")
# What differs from run to run, or is one for all of them.
DECIDED = ("method", "seed", "output", "resume")
# Each is a training of every method.
MOST_SEEDS = 1_000
# Decided by the comparison, refused, or of no use: no options of it.
NO_OPTIONS = (*DECIDED, "early_stopping", "keep_best", "shard_base", "allow_config_change", "debug")


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: a method, its settings, those of its runs, and its candidates."""

    # Name of the variant; None takes the entry's label.
    method: str | None = None
    # The variant's, beside the comparison's run.method_settings.
    settings: dict[str, Any] = field(default_factory=dict)
    # By name or dotted name; the others are the comparison's.
    run: dict[str, Any] = field(default_factory=dict)
    # Candidates by dotted name; None: one of each of the learning rates.
    grid: list[dict[str, Any]] | None = None

    def config(self, run: RunConfig, label: str) -> RunConfig:
        """Return the config of the entry's runs, with all their settings checked, before a candidate is chosen."""
        values = {f"settings.{name}": value for name, value in self.settings.items()} | self.run
        return with_values(run, values, method=self.method or label, label=label)

    def candidates(self, run: RunConfig, learning_rates: list[float]) -> list[dict[str, Any]]:
        """Return the settings to choose among, one mapping per candidate of the ``run`` that :meth:`config` returns."""
        if self.grid is not None:
            return self.grid
        if find_variant(run.method).upper is None:
            return [{"lower.learning_rate": rate} for rate in learning_rates]
        # One number per candidate, so that methods of one and of two levels have equally many: the rate of the upper
        # level keeps its ratio to that of the lower one.
        lower, upper = run.lower.learning_rate or 0.0, run.upper.learning_rate or 0.0
        ratio = upper / lower if lower else 0.0
        # Ten digits: a ratio of decimal numbers is not a decimal number.
        return [
            {"lower.learning_rate": rate, "upper.learning_rate": float(f"{rate * ratio:.10g}")}
            for rate in learning_rates
        ]


def with_values(run: RunConfig, values: Mapping[str, Any], *, method: str, label: str) -> RunConfig:
    """Return the config of one method's runs with settings by dotted name, their types checked as those of a file."""
    # A dotted name changes one setting of its section: `settings` (the method's own), a level, `hypergradient` or
    # `ending`. A level without a dot changes those that it has; the other two are replaced.
    sections: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        if section in LEVELS or (name and section in ("settings", *NAMED)):
            sections.setdefault(section, {}).update({name: value} if name else value)
        else:
            plain[key] = value
    try:
        _refuse_undecidable(plain)
        of_method = run.method_settings.get(method, {}) | sections.pop("settings", {})
        # Those of other methods are left out: they would be in the hash that says whether a run is there already.
        decided: dict[str, Any] = {"method": method, "method_settings": {method: of_method}}
        for section, changed in sections.items():
            before = plain.pop(section, getattr(run, section))
            if section in LEVELS:
                decided[section] = build_section(LevelSettings, _given(before) | changed, kind=section)
            else:
                # The scheme that darts takes by itself need not fit what is changed: it is taken anew.
                name = "darts" if before == explicit("darts") else before
                named = {"name": name} if isinstance(name, str) else name or {}
                # Another name has other settings.
                kept = named if changed.get("name") in (None, named.get("name")) else {}
                decided[section] = {**kept, **changed}
        # All types are those of a config or of a section: nothing is left to be checked.
        if not plain:
            return dataclasses.replace(run, **{**reopened(run), **decided})
        unchanged = {setting.name: getattr(run, setting.name) for setting in dataclasses.fields(run)}
        given = {name: value for name, value in unchanged.items() if name not in run.left_open}
        levels = {level: LevelSettings(**_given(given[level])) for level in LEVELS}
        return build_section(RunConfig, {**given, **levels, **plain, **decided}, kind="run")
    except SettingsError as error:
        raise SettingsError(f"entry {label!r}: {error}") from error


def _given(level: Any) -> dict[str, Any]:
    """Return the settings of a level without those that are the method's to decide."""
    left_open = level.left_open if isinstance(level, LevelSettings) else ()
    return {name: value for name, value in resolved(level).items() if name not in left_open}


def _refuse_undecidable(names: Mapping[str, Any]) -> None:
    for name in names:
        if name in (*DECIDED, "method_settings"):
            raise SettingsError(f"run.{name} is not for an entry to decide; allowed: any other setting of a run")
        if "." in name:
            allowed = [f"{level}.{setting.name}" for level in LEVELS for setting in dataclasses.fields(LevelSettings)]
            raise SettingsError(
                f"there is no setting {name!r}; with a dot there are settings.NAME, hypergradient.NAME, ending.NAME "
                f"and {', '.join(allowed)}.{did_you_mean(name, allowed)}"
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
        runs_on: ``local``: this machine; ``ray``: a Ray cluster, which takes ``pip install 'bilora[ray]'``. ``--on`` is
            short for it.
        ray_address: The cluster that runs already, ``HOST:PORT``, or ``auto``; None takes the one that this machine
            belongs to, and starts one on this machine where there is none.
        cpus_per_run: Cores that Ray keeps for a run, which has as many threads; below 1 several runs share one.
        gpus_per_run: GPUs that Ray keeps for a run: 1, or a part of one that several runs share.
        run: Task, data, model and everything else that the runs share.
        output: Folder of the comparison; one that is there is gone on with. None takes ``runs/compare-<task>``.
        document: A Markdown file in which the comparison's section is written, or written anew.
        debug: Whether to show where in the program an error was raised.

    Raises:
        SettingsError: A value is unknown or out of range.
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
    runs_on: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    run: RunConfig = field(default_factory=SharedSettings)
    output: str | None = None
    document: str | None = None
    debug: bool = False

    def __post_init__(self) -> None:
        """Check everything that can be checked before any file is read, with the candidates of all entries."""
        # Before they are counted one by one.
        if isinstance(self.seeds, int) and not 1 <= self.seeds <= MOST_SEEDS:
            raise SettingsError(f"comparison: seeds is {self.seeds}, give at least one, and at most {MOST_SEEDS:,}")
        rates, count = self.learning_rates, len(self.seed_list)
        checks = (
            ("methods", "give at least one", bool(self.methods)),
            ("methods", "each may stand once; give it labels in entries", len(set(self.methods)) == len(self.methods)),
            ("baseline", f"it must be one of the methods: {', '.join(self.methods)}", self.baseline in self.methods),
            ("seeds", "give at least one, each once", count > 0 and len(set(self.seed_list)) == count),
            (
                "seeds",
                f"none may be negative, or above {BEYOND - 1:,}",
                all(0 <= seed < BEYOND for seed in self.seed_list),
            ),
            (
                "learning_rates",
                "give at least one, all above 0 and finite",
                bool(rates) and all(0 < rate < math.inf for rate in rates),
            ),
            ("choose_share", "it must be above 0 and below 1", 0 < self.choose_share < 1),
            ("choose_seeds", "it must be 1 to the number of seeds", 1 <= self.choose_seeds <= count),
            ("jobs", "it must be at least 1", self.jobs >= 1),
            *self._checks_of_ray(),
        )
        refuse_faults("comparison", self, checks)
        for name in DECIDED:
            if (value := getattr(self.run, name)) != getattr(type(self.run)(), name):
                raise SettingsError(
                    f"comparison: run.{name} is {value!r}, but the comparison decides it; give methods, seeds and "
                    "output beside run"
                )
        self._check_candidates()

    def _checks_of_ray(self) -> tuple[tuple[str, str, bool], ...]:
        """Return the checks of what is for a cluster alone."""
        on_ray, of_ray = self.runs_on == "ray", "it belongs to --on ray; leave it out, or give that"
        bare = self.gpus_per_run == 0 and self.run.device.startswith("cuda")
        return (
            (
                "jobs",
                "Ray runs as many at once as there is room for; give --cpus-per-run",
                self.jobs == 1 or not on_ray,
            ),
            ("ray_address", of_ray, on_ray or self.ray_address is None),
            ("cpus_per_run", of_ray, on_ray or self.cpus_per_run == 1),
            ("gpus_per_run", of_ray, on_ray or self.gpus_per_run == 0),
            ("cpus_per_run", "it must be above 0, and a whole number above 1", _is_share(self.cpus_per_run)),
            ("gpus_per_run", "it must be 0 to 1, since a run has one device", 0 <= self.gpus_per_run <= 1),
            ("gpus_per_run", f"and run.device is {self.run.device}; give 1, or a part of one", not (on_ray and bare)),
        )

    @property
    def seed_list(self) -> list[int]:
        """The seeds, one by one."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    @cached_property
    def table(self) -> dict[str, tuple[Entry, RunConfig]]:
        """The entry of every method that is compared, and the config of its runs before a candidate is chosen."""
        # Entries that are not compared too: a mistake in one would come to light only when it is.
        entries = {label: build_section(Entry, row, kind=f"entry {label!r}") for label, row in self.entries.items()}
        compared = {label: entries.get(label, Entry()) for label in self.methods}
        return {label: (entry, entry.config(self.run, label)) for label, entry in compared.items()}

    def candidates(self, label: str) -> list[dict[str, Any]]:
        """Return the candidates of an entry."""
        entry, run = self.table[label]
        return entry.candidates(run, self.learning_rates)

    def config_of(self, label: str, candidate: Mapping[str, Any] | None = None, **decided: Any) -> RunConfig:
        """Return the config of an entry's runs, with what the comparison has decided."""
        _, run = self.table[label]
        run = with_values(run, candidate, method=run.method, label=label) if candidate else run
        return dataclasses.replace(run, **decided)

    def _check_candidates(self) -> None:
        sizes: dict[str, int] = {}
        for label, (entry, run) in self.table.items():
            sizes[label] = len(self.candidates(label))
            _refuse_watching(label, run)
            # Learning rates are in order if the rest is, so only a grid's candidates are built to be checked.
            for candidate in entry.grid or ():
                _refuse_watching(label, self.config_of(label, candidate))
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            counts = ", ".join(f"{label} {size}" for label, size in sizes.items())
            raise SettingsError(
                f"comparison: every method needs equally many candidates, at least one; there are {counts}"
            )


def _is_share(count: float) -> bool:
    """Return whether Ray can keep so many of something: a part of one, or a whole number."""
    return 0 < count < 1 or (1 <= count < math.inf and count == int(count))


def _refuse_watching(label: str, run: RunConfig) -> None:
    if run.early_stopping or run.keep_best:
        raise SettingsError(
            f"entry {label!r}: early_stopping and keep_best would choose by the validation rows that are reported; "
            "leave them out, or take a method that looks at training rows, such as lora_early_stopping"
        )
