"""What a study does, read from a file that was fixed before: its settings, methods, seeds and the grid beside them."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from bilora.errors import SettingsError
from bilora.files.formats import read_yaml
from bilora.settings.lookup import did_you_mean
from bilora.settings.sections import build_section

# Learning rate and weight decay.
Cell = tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """Rows to learn from, and how the answers to the test rows are scored."""

    # The folder of the data, below the folder of all data.
    task: str
    # Keys of metrics, the one that counts first.
    metrics: list[str]
    # Training rows, drawn with the run's seed; None takes all.
    rows: int | None = None
    rows_per_class: int | None = None
    # Names of the classes of which macro_f1 is the mean; None takes all.
    classes: list[str] | None = None
    run: dict[str, Any] = field(default_factory=dict)
    # Settings of every adapter, such as the layers of a model that PEFT does not know.
    adapter: dict[str, Any] = field(default_factory=dict)
    noisy: bool = False
    # A key of MODELS; None is the embedded MiniLM.
    model: str | None = None
    # How many of the study's seeds.
    seeds: int | None = None


@dataclass(frozen=True)
class Method:
    """A line of the tables."""

    method: str
    # Settings of its runs by name or dotted name, as an entry of `bilora compare` has them.
    run: dict[str, Any] = field(default_factory=dict)
    # The settings in which it runs; None is all.
    settings_in: list[str] | None = None


@dataclass(frozen=True)
class Grid:
    """The cells that are searched for LoRA."""

    cells: list[tuple[float, float]]
    sizes: list[int]
    random_cells: int


@dataclass(frozen=True)
class Protocol:
    """A whole study."""

    main: str
    run: dict[str, Any]
    seeds: list[int]
    development_seeds: list[int]
    test_rows: int
    settings: dict[str, Setting]
    methods: dict[str, Method]
    grid: Grid | None = None
    # The line whose CPU time is the unit of costs.
    unit: str = "lora_3e-3"
    # The study that this one repeats with other methods: what its protocol does not say is as there, and so are the
    # trainings that both have, which are read from its results.
    follows: Protocol | None = None
    # Of the file that it was read from.
    sha256: str = ""
    name: str = "study"

    # What stands under the keys that hold sections by name, and under those that are one section.
    TABLES: ClassVar[dict[str, type[Any]]] = {"settings": Setting, "methods": Method}
    SECTIONS: ClassVar[dict[str, type[Any]]] = {"grid": Grid}

    def seeds_of(self, setting: str) -> list[int]:
        """Return the seeds of a setting; the first one chooses cells."""
        return self.seeds[: self.settings[setting].seeds]

    def methods_in(self, setting: str) -> list[str]:
        """Return the methods that run in a setting."""
        return [name for name, row in self.methods.items() if row.settings_in is None or setting in row.settings_in]

    def for_development(self) -> Self:
        """Return the same with the seeds for trials."""
        follows = None if self.follows is None else self.follows.for_development()
        return dataclasses.replace(self, seeds=self.development_seeds, name=f"{self.name}_development", follows=follows)


Kind = TypeVar("Kind", bound=Protocol)


def read_protocol(path: Path) -> Protocol:
    """Return the protocol in a YAML file, its keys and types checked."""
    return read_as(Protocol, path)


def read_as(protocol: type[Kind], path: Path) -> Kind:
    """Return the protocol in a YAML file as one of a kind."""
    content, own = read_yaml(path), path.read_bytes()
    if "follows" in content:
        first = path.parent / content["follows"]
        content["follows"], before = read_as(protocol, first), read_yaml(first)
        content = {**before, **content, "methods": {**before["methods"], **content.get("methods", {})}}
        own += first.read_bytes()
    tables: dict[str, Any] = {}
    for key, kind in protocol.TABLES.items():
        tables[key] = {name: build_section(kind, part, kind=f"{key}: {name}") for name, part in content[key].items()}
    for key, kind in protocol.SECTIONS.items():
        if key in content:
            tables[key] = build_section(kind, content[key], kind=key)
    known = [each.name for each in dataclasses.fields(protocol)]
    if wrong := [name for name in content if name not in known]:
        raise SettingsError(f"{path} has no setting {wrong[0]!r}.{did_you_mean(wrong[0], known)}")
    sha256 = hashlib.sha256(own).hexdigest()
    return protocol(**{**content, **tables, "sha256": sha256, "name": path.stem})


@dataclass(frozen=True)
class Job:
    """One training: a method with its settings, on the rows of one seed of a setting."""

    setting: str
    method: str
    seed: int
    # Settings of the run by dotted name.
    run: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def name(self) -> str:
        """What tells it from all others, in one line."""
        # A decay of 0 in one place and 0.0 in another are one.
        said = [f"{key}={value:g}" if isinstance(value, int | float) else f"{key}={value}" for key, value in self.run]
        return " ".join([self.setting, self.method, f"seed={self.seed}", *said])


def job_of(setting: str, row: Method, seed: int) -> Job:
    """Return the job of a line of the tables."""
    return Job(setting, row.method, seed, tuple(sorted(row.run.items())))


def lora(cell: Cell, *, method: str = "lora") -> Method:
    """Return LoRA with the learning rate and decay of a cell, on all rows or, as ``lora_d1``, on D1."""
    return Method(method, {"lower.learning_rate": cell[0], "lower.weight_decay": cell[1]})
