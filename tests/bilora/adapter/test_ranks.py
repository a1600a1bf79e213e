"""Ranks by threshold, by energy and to a budget, against counting by hand."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bilora.adapter.ranks import RANK_RULES, Budget, Energy, Mean, Threshold, build_rank_rule
from bilora.errors import SettingsError

SIZES = {"query": torch.tensor([0.5, 4.0, 0.0, 1.0]), "value": torch.tensor([2.0, 2.0]), "dead": torch.zeros(3)}


def drawn() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(rank, generator=generator, dtype=torch.float64) for name, rank in (("a", 8), ("b", 5))}


@pytest.mark.parametrize(
    ("rule", "ranks"),
    [
        (Threshold(0.5), {"query": 1, "value": 2, "dead": 0}),
        (Threshold(0.125), {"query": 3, "value": 2, "dead": 0}),
        (Threshold(1.0), {"query": 1, "value": 0, "dead": 0}),
        (Threshold(0.0), {"query": 4, "value": 2, "dead": 3}),
        (Energy(0.5), {"query": 1, "value": 1, "dead": 0}),
        (Energy(0.51), {"query": 1, "value": 2, "dead": 0}),
        (Energy(17 / 17.25), {"query": 2, "value": 2, "dead": 0}),
        (Energy(1.0), {"query": 3, "value": 2, "dead": 0}),
        (Budget(1), {"query": 1, "value": 0, "dead": 0}),
        (Budget(2), {"query": 1, "value": 1, "dead": 0}),
        (Budget(4), {"query": 2, "value": 2, "dead": 0}),
        (Budget(100), {"query": 3, "value": 2, "dead": 0}),
        (Mean(), {"query": 1, "value": 2, "dead": 3}),
    ],
)
def test_by_hand(rule: Any, ranks: dict[str, int]) -> None:
    assert rule(SIZES) == ranks


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99, 1.0])
def test_energy_is_the_fewest_terms_that_reach_the_share(share: float) -> None:
    for name, values in drawn().items():
        rank = Energy(share)(drawn())[name]
        squares = sorted((value**2 for value in values.tolist()), reverse=True)
        # Summed one after another, as the rule does.
        sums = list(itertools.accumulate(squares, initial=0.0))
        assert sums[rank] >= share * sums[-1] > sums[rank - 1]


@pytest.mark.parametrize("total", range(1, 14))
def test_a_budget_is_spent_on_the_largest(total: int) -> None:
    ranks = Budget(total)(drawn())
    assert sum(ranks.values()) == total
    layers = {name: sorted(values.tolist(), reverse=True) for name, values in drawn().items()}
    kept = [value for name, values in layers.items() for value in values[: ranks[name]]]
    assert sorted(kept, reverse=True) == sorted(sum(layers.values(), []), reverse=True)[:total]


def test_equal_weights_are_all_kept_by_the_mean() -> None:
    for rank in range(2, 20):
        assert Mean()({"query": torch.softmax(torch.full((rank,), 0.3), dim=0)}) == {"query": rank}


def test_rules_by_name() -> None:
    settings = {"threshold": {"fraction": 0.1}, "energy": {"share": 0.9}, "budget": {"total": 3}, "mean": {}}
    assert settings.keys() == RANK_RULES.keys()
    built = [build_rank_rule({"name": name, **values}) for name, values in settings.items()]
    assert built == [Threshold(0.1), Energy(0.9), Budget(3), Mean()]
    rule = Energy(0.5)
    assert build_rank_rule(rule) is rule


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"name": "threshold", "fraction": -0.1}, r"fraction is -0.1; it is a part of the largest term, in \[0, 1\]"),
        ({"name": "threshold", "fraction": math.nan}, "fraction is nan"),
        ({"name": "energy", "share": 0.0}, r"share is 0.0; .* in \(0, 1\]"),
        ({"name": "energy", "share": 1.1}, "share is 1.1"),
        ({"name": "budget", "total": 0}, "total is 0; .* at least 1"),
        ({"name": "budget", "totl": 3}, "rank rule 'budget' has no setting 'totl'.* Did you mean 'total'"),
        ({"name": "budgt"}, "rank rule 'budgt' is unknown; .* Did you mean 'budget'"),
        ({"share": 0.9}, "ranks has no name; known: budget, energy, mean, threshold"),
    ],
)
def test_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        build_rank_rule(settings)
