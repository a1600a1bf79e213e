"""The numbers of a step: means over its micro-batches."""

import math
from typing import Any

import pytest
import torch

from bilora.problems.levels.report import LevelReport


def closed(report: LevelReport, *micro_batches: tuple[Any, dict[str, Any]], norm: Any = 1.0) -> LevelReport:
    for loss, parts in micro_batches:
        report.add(torch.as_tensor(loss), {name: torch.as_tensor(part) for name, part in parts.items()})
    report.close(torch.as_tensor(norm))
    return report


def test_means_over_micro_batches_and_an_empty_next_step() -> None:
    report = closed(LevelReport(), (1.0, {"penalty": 0.5, "hits": 3}), (2.0, {"penalty": 0.75, "hits": 4}), norm=4.0)
    assert (report.loss, report.parts, report.gradient_norm) == (1.5, {"penalty": 0.625, "hits": 3.5}, 4.0)
    closed(report, (3.0, {}), norm=2.0)
    assert (report.loss, report.parts, report.gradient_norm) == (3.0, {}, 2.0)


def test_part_that_a_micro_batch_lacks() -> None:
    report = closed(LevelReport(), (1.0, {}), (1.0, {"a": 2.0}), (1.0, {"a": 4.0, "b": 5.0}))
    assert report.parts == {"a": 3.0, "b": 5.0}


def test_float64_losses_keep_their_digits() -> None:
    number = torch.tensor(1 + 1e-12, dtype=torch.float64)
    report = closed(LevelReport(), (number, {}), norm=number)
    assert (report.loss, report.gradient_norm) == (1 + 1e-12, 1 + 1e-12)


def test_half_precision_losses_are_averaged_in_float32() -> None:
    """In bfloat16 the mean of 256 and 257 would be 256."""
    losses = (256.0, 258.0)
    report = closed(LevelReport(), *((torch.tensor(x, dtype=torch.bfloat16), {"half": x / 2}) for x in losses))
    assert (report.loss, report.parts["half"]) == (257.0, 128.5)


@pytest.mark.parametrize(
    ("loss", "norm"), [(1.0, 1.0), (math.nan, 1.0), (-math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_finite(loss: float, norm: float) -> None:
    assert not LevelReport().is_finite()  # before any step
    report = closed(LevelReport(), (loss, {"part": math.nan}), norm=norm)
    assert report.is_finite() == (loss == norm == 1.0)
