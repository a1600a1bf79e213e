"""The configuration of runs of several methods and seeds: what they share, and the config of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from bilora.errors import SettingsError
from bilora.runs.config import RunConfig
from bilora.settings.sections import refuse_faults


@dataclass(frozen=True)
class SharedSettings(RunConfig):
    """What runs of several methods share; their methods are given beside it."""

    # That of the base alone: it has all that some method has, so that no setting is refused before the methods are
    # known.
    method: str = "bilora"

    def of(self, method: str, seed: int) -> RunConfig:
        """Return the config of a run of one of the methods."""
        return super().of(method, seed).as_base(RunConfig)


@dataclass(frozen=True)
class SeveralRuns:
    """Runs of several methods with several seeds, and what they share.

    Args:
        method: Names of variants, or ``package.module:NAME``; each is run with every seed.
        seeds: One run per seed and method.
        run: All other settings; formulation and ending are for those of the methods for which they mean something.

    Raises:
        SettingsError: A setting means nothing for any of the methods, or is not allowed.

    Example:
        >>> [(run.method, run.seed) for run in SeveralRuns(method=["lora"]).runs]
        [('lora', 0), ('lora', 1)]
    """

    method: list[str] = field(default_factory=lambda: ["bilora", "lora"])
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    run: RunConfig = field(default_factory=SharedSettings)

    def __post_init__(self) -> None:
        """Check what concerns the runs together, and each of them."""
        unique = len(set(self.seeds)) == len(self.seeds)
        checks = (
            ("method", "give at least one", bool(self.method)),
            ("method", "each may stand once", len(set(self.method)) == len(self.method)),
            ("seeds", "give at least one", bool(self.seeds)),
            ("seeds", "each may stand once, and none may be negative", unique and min(self.seeds, default=0) >= 0),
        )
        refuse_faults("config", self, checks)
        runs = self.runs  # which checks the settings of each
        # Left out for some methods is as meant; for all of them it would be dropped without a word.
        for name in ("formulation", "ending"):
            value = getattr(self.run, name)
            if value is not None and all(getattr(run, name) is None for run in runs):
                raise SettingsError(
                    f"{name} is {value!r}, which means nothing for the methods {', '.join(self.method)}; leave it out"
                )

    @cached_property
    def runs(self) -> tuple[RunConfig, ...]:
        """The runs; methods alternate within a seed, so that a machine that slows down slows all of them down."""
        return tuple(self.run.of(method, seed) for seed in self.seeds for method in self.method)
