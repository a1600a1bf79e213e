"""The configuration of a comparison: what a YAML file or the words of ``bilora compare`` may say."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from bilora.compare.entry import Entry
from bilora.errors import SettingsError
from bilora.runs.config import RunConfig
from bilora.settings.checked import refuse_faults
from bilora.settings.sections import build_section


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
