"""Ranks chosen by size: from the magnitudes of each layer's rank-one terms to the number that is kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from bilora.errors import SettingsError
from bilora.settings.lookup import find
from bilora.settings.sections import build_section

# The magnitudes of a layer's rank-one terms, (rank,), none negative, by name of the layer.
Magnitudes: TypeAlias = Mapping[str, Tensor]
# From magnitudes to the number of terms to keep of each layer, the largest ones; it may be 0.
RankRule: TypeAlias = Callable[[Magnitudes], dict[str, int]]


@dataclass(frozen=True)
class Threshold:
    """Keep the terms of at least a fraction of the largest term of all layers.

    Args:
        fraction: In [0, 1].

    Raises:
        SettingsError: ``fraction`` is out of range.

    Example:
        >>> import torch
        >>> Threshold(0.5)({"query": torch.tensor([4.0, 1.0]), "value": torch.tensor([0.5, 2.0])})
        {'query': 1, 'value': 1}
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction <= 1.0:
            raise SettingsError(f"fraction is {self.fraction}; it is a part of the largest term, in [0, 1]")

    def __call__(self, magnitudes: Magnitudes) -> dict[str, int]:
        """Return the ranks."""
        largest = max((float(values.max()) for values in magnitudes.values()), default=0.0)
        return {name: int((values >= self.fraction * largest).sum()) for name, values in magnitudes.items()}


@dataclass(frozen=True)
class Energy:
    """Keep of each layer the fewest terms whose squares add up to a share of the layer's sum of squares.

    Args:
        share: In (0, 1].

    Raises:
        SettingsError: ``share`` is out of range.

    Example:
        >>> import torch
        >>> Energy(0.8)({"query": torch.tensor([1.0, 3.0, 0.1]), "value": torch.tensor([2.0, 2.0, 0.0])})
        {'query': 1, 'value': 2}
    """

    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise SettingsError(f"share is {self.share}; it is a part of the sum of squares, in (0, 1]")

    def __call__(self, magnitudes: Magnitudes) -> dict[str, int]:
        """Return the ranks."""
        return {name: self._rank(values) for name, values in magnitudes.items()}

    def _rank(self, values: Tensor) -> int:
        reached = values.double().square().sort(descending=True).values.cumsum(0)
        # Against the last partial sum, not another sum: with a share of 1 nothing but zeros may be left out.
        return int((reached < self.share * reached[-1]).sum()) + int(reached[-1] > 0)


@dataclass(frozen=True)
class Budget:
    """Keep the largest terms of all layers together, ``total`` in all; of equal ones those of earlier layers.

    Args:
        total: Sum of the ranks; terms of zero are not kept to fill it.

    Raises:
        SettingsError: ``total`` is below one.

    Example:
        >>> import torch
        >>> Budget(3)({"query": torch.tensor([4.0, 3.0]), "value": torch.tensor([0.5, 2.0])})
        {'query': 2, 'value': 1}
    """

    total: int

    def __post_init__(self) -> None:
        if self.total < 1:
            raise SettingsError(f"total is {self.total}; it is a number of terms and must be at least 1")

    def __call__(self, magnitudes: Magnitudes) -> dict[str, int]:
        """Return the ranks."""
        terms = [(-float(value), name) for name, values in magnitudes.items() for value in values if value > 0]
        # By value alone: the sort is stable, so that of equal terms those of earlier layers stay.
        kept = [name for _, name in sorted(terms, key=lambda term: term[0])[: self.total]]
        return {name: kept.count(name) for name in magnitudes}


@dataclass(frozen=True)
class Mean:
    """Keep the terms of each layer that are not below the layer's mean; at least one is.

    For selection weights that sum to one this is AutoLoRA's threshold of 1/k (arXiv 2403.09113).

    Example:
        >>> import torch
        >>> Mean()({"query": torch.tensor([0.5, 0.3, 0.2])})
        {'query': 1}
    """

    def __call__(self, magnitudes: Magnitudes) -> dict[str, int]:
        """Return the ranks."""
        # Values that differ from the mean by rounding only count as equal to it.
        return {name: int((values >= (1 - 1e-6) * values.mean()).sum()) for name, values in magnitudes.items()}


RANK_RULES: dict[str, Callable[..., RankRule]] = {
    "threshold": Threshold,
    "energy": Energy,
    "budget": Budget,
    "mean": Mean,
}
"""Every way to choose ranks by name; a new one is a class here and a row, or a user's ``package.module:NAME``."""


def build_rank_rule(rule: Mapping[str, Any] | RankRule) -> RankRule:
    """Return the rule of a mapping with the key ``name`` and the rule's settings; a rule is returned as it is."""
    if not isinstance(rule, Mapping):
        return rule
    settings = dict(rule)
    if "name" not in settings:
        raise SettingsError(f"ranks has no name; known: {', '.join(sorted(RANK_RULES))}")
    name = str(settings.pop("name"))
    return build_section(find(RANK_RULES, name, kind="rank rule"), settings, kind=f"rank rule {name!r}")
