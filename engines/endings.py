"""How a run ends: with what the levels have learned, with the lower one trained anew, or with ranks cut."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bilora.adapter.pruning import Cut
from bilora.adapter.ranks import build_rank_rule
from bilora.errors import SettingsError
from bilora.problems.levels.lower import LowerProblem
from bilora.problems.stage import Stage
from bilora.problems.variant import Variant
from bilora.problems.variants.bilora import BiloraLower
from bilora.settings.lookup import find
from bilora.settings.sections import build_section


class Ending(Protocol):
    """What follows a variant's own stages."""

    def stages(self, variant: Variant, settings: Any) -> tuple[Stage, ...]:
        """Return the stages to add to a variant with its settings; none where the ending means nothing for it."""


@dataclass(frozen=True)
class Keep:
    """End with the parameters as they are."""

    def stages(self, variant: Variant, settings: Any) -> tuple[Stage, ...]:
        """Return none."""
        return ()


@dataclass(frozen=True)
class Retrain:
    """Train the lower level anew on all rows, from its values before the run, with what was learned above fixed."""

    # None for as many as the run's.
    steps: int | None = None
    # The rule by which ranks are cut before, a mapping with ``name`` and its settings; None for the variant's own.
    ranks: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise SettingsError(f"ending 'retrain': steps is {self.steps}; it must be at least 1")
        if self.ranks is not None:
            build_rank_rule(self.ranks)

    def stages(self, variant: Variant, settings: Any) -> tuple[Stage, ...]:
        """Return one stage over all the rows."""
        # A variant that has trained on all the rows already has nothing left to train on.
        if not variant.splits_rows(settings):
            return ()
        if self.ranks is not None and not variant.has_values:
            raise SettingsError(
                f"ending 'retrain' shall cut ranks by singular values, and method {variant.name!r} has none; leave "
                "ranks out"
            )
        cut = variant.cut if self.ranks is None else Cut(build_rank_rule(self.ranks))
        title = "training on all rows"
        return (Stage("retrain", variant.lower, steps=self.steps, fresh=True, cut=cut, title=title),)


@dataclass(frozen=True)
class Prune:
    """Cut the ranks by the magnitudes of the learned terms, and train no further."""

    # A mapping with the name of the rule and its settings; by default 90 percent of each layer's energy.
    ranks: dict[str, Any] = field(default_factory=lambda: {"name": "energy", "share": 0.9})

    def __post_init__(self) -> None:
        build_rank_rule(self.ranks)

    def stages(self, variant: Variant, settings: Any) -> tuple[Stage, ...]:
        """Return one stage without steps."""
        cut = Cut(build_rank_rule(self.ranks))
        # A stage without steps, so that the cut model is validated, and kept, like that of any other.
        return (Stage("prune", variant.lower, steps=0, cut=cut),) if variant.has_values else ()


@dataclass(frozen=True)
class ThenTrusted:
    """Train the lower level anew on D1, whose labels are doubtful, and go on with D2, whose labels are trusted."""

    # Of the steps, and of the lower level's learning rate, when it goes on: what D1 has taught is to stay.
    share: float = 0.25
    rate: float = 0.5

    def __post_init__(self) -> None:
        for name in ("share", "rate"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingsError(
                    f"ending 'then_trusted': {name} is {getattr(self, name)}; it must be above 0, and at most 1"
                )

    def stages(self, variant: Variant, settings: Any) -> tuple[Stage, ...]:
        """Return the two stages."""
        if not variant.splits_rows(settings):
            return ()
        # Its loaders are those of both parts, of which the trusted one may be small.
        common: dict[str, Any] = {"small_upper": True, "is_search": True}
        doubtful, trusted = "training on the doubtful rows", "going on with the trusted rows"
        # Without a loss or decays of the variant's: they are for wrong labels, and these are right.
        plain = BiloraLower if variant.has_values else LowerProblem
        return (
            Stage("doubtful", variant.lower, rows="lower", fresh=True, title=doubtful, **common),
            Stage("trusted", plain, rows="upper", share=self.share, rate=self.rate, small_upper=True, title=trusted),
        )


ENDINGS: dict[str, Callable[..., Ending]] = {
    "keep": Keep,
    "retrain": Retrain,
    "prune": Prune,
    "then_trusted": ThenTrusted,
}
"""Every ending by name; a user's own is ``package.module:NAME``."""


def build_ending(chosen: str | Mapping[str, Any]) -> Ending:
    """Return the ending that a config or a variant chose.

    Args:
        chosen: A name, or a mapping with the key ``name`` and that ending's own settings.

    Raises:
        SettingsError: The name or a setting is unknown, or a value is not allowed.

    Example:
        >>> build_ending({"name": "retrain", "steps": 50})
        Retrain(steps=50, ranks=None)
        >>> build_ending("retain")
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: ending 'retain' is unknown; known: keep, prune, retrain, then_trusted; or give \
'package.module:NAME'. Did you mean 'retrain'?
    """
    settings = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
    if "name" not in settings:
        raise SettingsError(f"ending has settings ({', '.join(settings)}) but no name; known: {', '.join(ENDINGS)}")
    name = str(settings.pop("name"))
    return build_section(find(ENDINGS, name, kind="ending"), settings, kind=f"ending {name!r}")
