"""Paired statistics against scipy and against what can be counted by hand."""

import itertools
import json
from pathlib import Path

import numpy
import pytest
from scipy import stats

from bilora.compare import statistics
from bilora.runs.results import read_predictions
from bilora.tasks.catalog import TASKS


def test_pairs_by_seed_and_leaves_out_what_has_no_pair() -> None:
    assert statistics.paired_differences({3: 1.0, 1: 2.0, 2: None, 4: 9.0}, {1: 1.5, 2: 0.0, 3: 0.5}) == (0.5, 0.5)


def test_interval_is_that_of_scipy() -> None:
    values = numpy.random.default_rng(1).normal(0.02, 0.01, size=20)
    interval = statistics.bootstrap_interval(values.tolist(), draws=100_000)
    settings = {"n_resamples": 100_000, "method": "percentile", "rng": numpy.random.default_rng(7)}
    theirs = stats.bootstrap((values,), numpy.mean, **settings).confidence_interval
    assert interval is not None
    # Two seeds of the resampling differ by a hundredth of the deviation of the mean.
    assert interval == pytest.approx((theirs.low, theirs.high), abs=0.02 * values.std())


def test_interval_of_few_differences() -> None:
    # Each of the two alone makes a quarter of the resamples, far more than the 2.5% that are cut.
    assert statistics.bootstrap_interval([0.25, -0.5]) == (-0.5, 0.25)
    assert statistics.bootstrap_interval([]) is statistics.bootstrap_interval([0.5]) is None


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = [0.013, 0.021, -0.004, 0.017, 0.008, 0.03]
    assert statistics.bootstrap_interval(values) == statistics.bootstrap_interval(values)
    assert statistics.bootstrap_interval(values, draws=50) != statistics.bootstrap_interval(values, draws=50, seed=1)


def result_of(differences: list[float]) -> statistics.Wilcoxon:
    test = statistics.wilcoxon(differences)
    assert test is not None
    return test


@pytest.mark.parametrize("differences", [[0.1, -0.2, 0.3, 0.4, 0.5, 0.6], [0.3, 0.1, -0.25, 0.7, 0.02]])
def test_wilcoxon_without_ties_is_that_of_scipys_tables(differences: list[float]) -> None:
    exact = float(stats.wilcoxon(differences, method="exact").pvalue)
    assert result_of(differences).p_value == pytest.approx(exact, abs=1e-12)


def test_wilcoxon_with_ties_counts_all_sign_patterns() -> None:
    differences = [0.1, 0.1, -0.1, 0.3, 0.3, 0.4]
    ranks = stats.rankdata(numpy.abs(differences))
    # How far a sum of positive ranks is from half of all ranks, for each pattern of signs.
    sums = [float(numpy.dot(ranks, pattern)) for pattern in itertools.product((0, 1), repeat=6)]
    distances = numpy.abs(numpy.asarray(sums) - ranks.sum() / 2)
    distance = abs(ranks[numpy.asarray(differences) > 0].sum() - ranks.sum() / 2)
    assert result_of(differences).p_value == pytest.approx((distances >= distance).mean(), abs=1e-12)


@pytest.mark.parametrize(("count", "can_tell"), [(1, False), (2, False), (5, False), (6, True)])
def test_wilcoxon_says_whether_so_few_can_tell(count: int, can_tell: bool) -> None:
    test = result_of([0.1 * (rank + 1) for rank in range(count)])
    assert test.p_value == pytest.approx(test.smallest) == 2.0 ** (1 - count)
    assert test.can_tell is can_tell


def test_wilcoxon_of_zeros_and_of_nothing() -> None:
    # 0.3 - 0.1 and 0.2 differ by a bit; that is no difference between two methods.
    test = result_of([0.0, 0.3 - 0.1 - 0.2])
    assert (test.p_value, test.can_tell) == (1.0, False)
    assert statistics.wilcoxon([]) is None


def test_rows_and_seeds_are_both_resampled() -> None:
    generator = numpy.random.default_rng(0)
    base = numpy.zeros((4, 2000))
    rows_only = numpy.tile(generator.normal(0.1, 0.02, size=2000), (4, 1))
    low, high = statistics.row_bootstrap_interval(rows_only.tolist(), base.tolist())
    # The same draw of rows holds for all seeds, so their mean is as wide as one of them: 1.96 deviations.
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.02, 0.1 + 1.96 * 0.02), abs=0.004)
    seeds_only = numpy.repeat([[0.0], [0.0], [0.0], [1.0]], 2000, axis=1)
    low, high = statistics.row_bootstrap_interval(seeds_only.tolist(), base.tolist())
    # The mean of four draws of a quarter: 0 in 32% of the cases, 0.75 or more in 5%.
    assert (low, high) == (0.0, 0.75)


def test_the_mean_over_independent_groups_is_narrower_by_the_root_of_their_number() -> None:
    generator = numpy.random.default_rng(0)
    # Seeds that do not differ: what is left is the rows.
    groups = [numpy.tile(generator.normal(0.1 * place, 0.02, size=2000), (3, 1)) for place in range(4)]
    low, high = statistics.mean_row_interval(groups)
    assert (low, high) == pytest.approx((0.15 - 1.96 * 0.01, 0.15 + 1.96 * 0.01), abs=0.002)
    assert statistics.mean_row_interval(groups[:1]) == statistics.row_bootstrap_interval(groups[0], 0 * groups[0])


def rows(answers: str) -> list[dict[str, str]]:
    names = {"1": "equivalent", "0": "not_equivalent"}
    return [{"label": "equivalent", "prediction": names[answer]} for answer in answers]


def test_spread_is_that_of_a_binomial() -> None:
    scores = statistics.resampled_scores(TASKS["mrpc"], rows("1110" * 50), draws=4000)
    assert scores is not None
    assert numpy.mean(scores) == pytest.approx(0.75, abs=0.002)
    assert numpy.std(scores) == pytest.approx((0.75 * 0.25 / 200) ** 0.5, rel=0.05)


def test_two_methods_are_scored_on_the_same_rows() -> None:
    first, second = (statistics.resampled_scores(TASKS["mrpc"], rows(text), draws=50) for text in ("1100", "0011"))
    assert first and second
    assert numpy.add(first, second).tolist() == [1.0] * 50


def test_numbers_are_taken_as_they_are() -> None:
    pairs = [{"label": float(number), "prediction": -2.0 * number} for number in range(8)]
    scores = statistics.resampled_scores(TASKS["stsb"], pairs, draws=5)
    assert scores == pytest.approx([-1.0] * 5, abs=1e-12)


@pytest.mark.parametrize(
    ("draws", "p_value"),
    [([1.0] * 19 + [-1.0], 0.1), ([0.0] * 20, 1.0), ([2.0] * 20, 0.1), ([-1.0] * 16 + [0.5] * 4, 0.4)],
)
def test_the_p_value_of_a_sign_counts_the_rarer_side_twice(draws: list[float], p_value: float) -> None:
    assert statistics.sign_p_value(numpy.array(draws).reshape(4, 5)) == pytest.approx(p_value)


def test_an_undefined_score_gives_none() -> None:
    constant = [{"label": name, "prediction": "acceptable"} for name in ("acceptable", "unacceptable")]
    assert statistics.resampled_scores(TASKS["cola"], constant, draws=3) is None


def test_reads_what_a_run_wrote(tmp_path: Path) -> None:
    path = tmp_path / "predictions-validation.jsonl"
    path.write_text(json.dumps({"label": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_predictions(path) == [{"label": "a\u2028b"}]


@pytest.mark.parametrize(
    ("target", "greater", "seconds"),
    [(0.5, True, 2.0), (0.75, True, 4.0), (0.8, True, None), (0.5, False, 2.0), (0.25, False, None)],
)
def test_the_first_validation_that_is_as_good(target: float, greater: bool, seconds: float | None) -> None:
    reached = [(1.0, None), (2.0, 0.5), (4.0, 0.75)]
    assert statistics.seconds_to_reach(reached, target, greater_is_better=greater) == seconds
    assert statistics.best_score(reached, greater_is_better=greater) == (0.75 if greater else 0.5)
    assert statistics.best_score([(1.0, None)], greater_is_better=greater) is None
