"""What the study of trusted rows does and what counts in it, read from a file that was fixed before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from study_protocol import Grid, Method, Protocol, Setting, read_as

from bilora.errors import SettingsError

NOISE = ("true_column", "flips", "flips_to_next", "flips_by_source", "frequent_first")


@dataclass(frozen=True)
class TrustedSetting(Setting):
    """Doubtful rows, trusted ones, and what is wrong with the doubtful."""

    # Trusted rows per class.
    trusted: int = 1
    # One of these. The column of the training file with the true labels, where its labels are wrong by themselves.
    true_column: str | None = None
    # Share of the rows that get another class, all of them equally likely.
    flips: float | None = None
    # Share of the rows of each class that get the next one.
    flips_to_next: float | None = None
    # The same as ``flips``, for each of as many sources, to which the rows are dealt out.
    flips_by_source: list[float] | None = None
    # Labels are right, and classes rare: names from the most frequent class, which has ``rows`` rows, to the rarest.
    frequent_first: list[str] | None = None
    # How many times as many rows the most frequent class has as the rarest.
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        given = [name for name in NOISE if getattr(self, name) is not None]
        if len(given) != 1:
            raise SettingsError(f"a setting has one of {', '.join(NOISE)}; given: {', '.join(given) or 'none'}")


@dataclass(frozen=True)
class TrustedMethod(Method):
    """A line of the tables: one of ours, a rival, or the ceiling, which no method can have."""

    role: str = "rival"


@dataclass(frozen=True)
class Wanted:
    """What counts: margins in points, and which line should beat which."""

    # The main line is at most so far below the rival with the highest mean over the settings, on the mean ...
    below_best_mean: float
    # ... and in no setting so far below the best rival there.
    below_best_of_setting: float
    p_value: float
    # By line of ours, the rivals that it should beat, over the settings that both have.
    beats: dict[str, list[str]]
    # Lines of which one must lead the best rival of one of its settings by so much.
    two_levels: list[str]
    two_levels_lead: float


@dataclass(frozen=True)
class TrustedProtocol(Protocol):
    """A whole study of trusted rows."""

    wanted: Wanted | None = None

    TABLES: ClassVar[dict[str, type[Any]]] = {"settings": TrustedSetting, "methods": TrustedMethod}
    SECTIONS: ClassVar[dict[str, type[Any]]] = {"grid": Grid, "wanted": Wanted}
    settings: dict[str, TrustedSetting] = field(default_factory=dict)  # type: ignore[assignment]
    methods: dict[str, TrustedMethod] = field(default_factory=dict)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        wanted = self.wanted
        named = [] if wanted is None else [*wanted.beats, *sum(wanted.beats.values(), []), *wanted.two_levels]
        if unknown := [name for name in (self.main, self.unit, *named) if name not in self.methods]:
            raise SettingsError(f"the protocol names {unknown[0]!r}, which is none of its methods")

    def of_role(self, role: str) -> list[str]:
        """Return the lines of a role: ``ours``, ``rival`` or ``ceiling``."""
        return [name for name, method in self.methods.items() if method.role == role]


def read_trusted(path: Path) -> TrustedProtocol:
    """Return the protocol in a YAML file."""
    return read_as(TrustedProtocol, path)
