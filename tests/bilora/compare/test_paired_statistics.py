"""Paired statistics against scipy and against what can be counted by hand."""

from __future__ import annotations

import itertools

import numpy
import pytest
from scipy import stats

from bilora.compare.statistics import (
    bootstrap_interval,
    paired_differences,
    row_bootstrap_interval,
    wilcoxon,
)


def test_pairs_by_seed_and_leaves_out_what_has_no_pair() -> None:
    assert paired_differences({3: 1.0, 1: 2.0, 2: None, 4: 9.0}, {1: 1.5, 2: 0.0, 3: 0.5}) == (0.5, 0.5)


def test_interval_is_that_of_scipy() -> None:
    values = numpy.random.default_rng(1).normal(0.02, 0.01, size=20)
    own = bootstrap_interval(values.tolist(), draws=100_000)
    theirs = stats.bootstrap(
        (values,), numpy.mean, n_resamples=100_000, method="percentile", rng=numpy.random.default_rng(7)
    ).confidence_interval
    assert own is not None
    # Two seeds of the resampling differ by a hundredth of the deviation of the mean.
    assert own == pytest.approx((theirs.low, theirs.high), abs=0.02 * values.std())


def test_interval_of_two_reaches_from_one_to_the_other() -> None:
    # Each of the two alone makes a quarter of the resamples, far more than the 2.5% that are cut.
    assert bootstrap_interval([0.25, -0.5]) == (-0.5, 0.25)


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = [0.013, 0.021, -0.004, 0.017, 0.008, 0.03]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, draws=50) != bootstrap_interval(values, draws=50, seed=1)


@pytest.mark.parametrize("differences", [[], [0.5]])
def test_one_difference_has_no_interval(differences: list[float]) -> None:
    assert bootstrap_interval(differences) is None


@pytest.mark.parametrize("differences", [[0.1, -0.2, 0.3, 0.4, 0.5, 0.6], [0.3, 0.1, -0.25, 0.7, 0.02]])
def test_wilcoxon_without_ties_is_that_of_scipys_tables(differences: list[float]) -> None:
    found = wilcoxon(differences)
    assert found is not None
    assert found.p_value == pytest.approx(float(stats.wilcoxon(differences, method="exact").pvalue), abs=1e-12)


def test_wilcoxon_with_ties_counts_all_sign_patterns() -> None:
    differences = [0.1, 0.1, -0.1, 0.3, 0.3, 0.4]
    ranks = stats.rankdata(numpy.abs(differences))
    total = float(ranks.sum())
    seen = float(ranks[numpy.asarray(differences) > 0].sum())
    sums = [float(numpy.dot(ranks, pattern)) for pattern in itertools.product((0, 1), repeat=6)]
    far = sum(min(each, total - each) <= min(seen, total - seen) for each in sums)
    found = wilcoxon(differences)
    assert found is not None
    assert found.p_value == pytest.approx(far / len(sums), abs=1e-12)


@pytest.mark.parametrize(("count", "can_tell"), [(1, False), (2, False), (5, False), (6, True)])
def test_wilcoxon_says_whether_so_few_can_tell(count: int, can_tell: bool) -> None:
    found = wilcoxon([0.1 * (each + 1) for each in range(count)])
    assert found is not None
    assert found.p_value == pytest.approx(found.smallest) == 2.0 ** (1 - count)
    assert found.can_tell is can_tell


def test_wilcoxon_of_zeros_and_of_nothing() -> None:
    # 0.3 - 0.1 and 0.2 differ by a bit; that is no difference between two methods.
    found = wilcoxon([0.0, 0.3 - 0.1 - 0.2])
    assert found is not None
    assert (found.p_value, found.can_tell) == (1.0, False)
    assert wilcoxon([]) is None


def test_rows_and_seeds_are_both_resampled() -> None:
    generator = numpy.random.default_rng(0)
    base = numpy.zeros((4, 2000))
    rows_only = numpy.tile(generator.normal(0.1, 0.02, size=2000), (4, 1))
    low, high = row_bootstrap_interval(rows_only.tolist(), base.tolist())
    # The same draw of rows holds for all seeds, so their mean is as wide as one of them: 1.96 deviations.
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.02, 0.1 + 1.96 * 0.02), abs=0.004)
    seeds_only = numpy.repeat([[0.0], [0.0], [0.0], [1.0]], 2000, axis=1)
    low, high = row_bootstrap_interval(seeds_only.tolist(), base.tolist())
    # The mean of four draws of a quarter: 0 in 32% of the cases, 0.75 or more in 5%.
    assert (low, high) == (0.0, 0.75)
