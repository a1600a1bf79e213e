"""The numbers of a step: means over its micro-batches."""

from __future__ import annotations

import math

import pytest
import torch

from bilora.problems.levels.report import LevelReport


def test_means_over_micro_batches() -> None:
    report = LevelReport()
    report.add(torch.tensor(1.0), {"penalty": torch.tensor(0.5), "hits": torch.tensor(3)})
    report.add(torch.tensor(2.0), {"penalty": torch.tensor(0.75), "hits": torch.tensor(4)})
    report.close(torch.tensor(4.0))
    assert (report.loss, report.gradient_norm) == (1.5, 4.0)
    assert report.parts == {"penalty": 0.625, "hits": 3.5}


def test_next_step_starts_empty() -> None:
    report = LevelReport()
    report.add(torch.tensor(1.0), {"penalty": torch.tensor(0.5)})
    report.close(torch.tensor(4.0))
    report.add(torch.tensor(3.0), {})
    report.close(torch.tensor(2.0))
    assert (report.loss, report.parts, report.gradient_norm) == (3.0, {}, 2.0)


def test_part_that_a_micro_batch_lacks() -> None:
    report = LevelReport()
    report.add(torch.tensor(1.0), {})
    report.add(torch.tensor(1.0), {"a": torch.tensor(2.0)})
    report.add(torch.tensor(1.0), {"a": torch.tensor(4.0), "b": torch.tensor(5.0)})
    report.close(torch.tensor(0.0))
    assert report.parts == {"a": 3.0, "b": 5.0}


def test_float64_losses_keep_their_digits() -> None:
    report = LevelReport()
    report.add(torch.tensor(1 + 1e-12, dtype=torch.float64), {})
    report.close(torch.tensor(1 + 1e-12, dtype=torch.float64))
    assert (report.loss, report.gradient_norm) == (1 + 1e-12, 1 + 1e-12)


def test_half_precision_losses_are_averaged_in_float32() -> None:
    """In bfloat16 the mean of 256 and 257 would be 256."""
    report = LevelReport()
    for loss in (256.0, 258.0):
        report.add(torch.tensor(loss, dtype=torch.bfloat16), {"half": torch.tensor(loss / 2)})
    report.close(torch.tensor(1.0))
    assert (report.loss, report.parts["half"]) == (257.0, 128.5)


@pytest.mark.parametrize(
    ("loss", "norm", "loss_is_finite", "is_finite"),
    [
        (1.0, 1.0, True, True),
        (math.nan, 1.0, False, False),
        (-math.inf, 1.0, False, False),
        (1.0, math.nan, True, False),
        (1.0, math.inf, True, False),
    ],
)
def test_finite(loss: float, norm: float, loss_is_finite: bool, is_finite: bool) -> None:
    report = LevelReport()
    report.add(torch.tensor(loss), {"part": torch.tensor(math.nan)})
    report.close(torch.tensor(norm))
    assert (report.loss_is_finite(), report.is_finite()) == (loss_is_finite, is_finite)


def test_before_any_step_nothing_is_finite() -> None:
    assert not LevelReport().is_finite()
