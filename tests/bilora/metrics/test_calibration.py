"""Calibration against sums by hand."""

import pytest

from bilora.metrics.calibration import calibration


def test_expected_error_is_the_mean_over_answers() -> None:
    found = calibration([0.92, 0.98, 1.0, 0.64, 0.61], [True, False, True, True, False])
    assert found is not None
    assert found.counts == (2, 3)
    assert found.confidence == pytest.approx([0.625, 2.9 / 3])
    assert found.right == pytest.approx([0.5, 2 / 3])
    assert found.expected_error == pytest.approx((2 * 0.125 + 3 * 0.3) / 5)
    assert found.excess == pytest.approx((0.25 + 0.9) / 5)


def test_gaps_of_both_signs_add_up_in_the_error_and_not_in_the_excess() -> None:
    found = calibration([0.25, 0.75], [True, False])
    assert found is not None
    assert (found.expected_error, found.excess) == pytest.approx((0.75, 0.0))


def test_nothing_has_none() -> None:
    assert calibration([], []) is None
