"""A metric by name, and its direction."""

import math

import pytest

from bilora.engines.callbacks.records import ValidationRecord
from bilora.errors import SettingsError
from bilora.metrics.monitor import Monitor


@pytest.mark.parametrize(
    ("value", "than", "when_greater", "when_smaller"),
    [
        (0.6, 0.5, True, False),
        (0.4, 0.5, False, True),
        (0.5, 0.5, False, False),
        (-1.0, None, True, True),
        (-1.0, math.nan, True, True),
        (None, None, False, False),
        (None, -1.0, False, False),
        (math.nan, None, False, False),
        (math.nan, -1.0, False, False),
    ],
)
def test_which_value_is_better(value: float | None, than: float | None, when_greater: bool, when_smaller: bool) -> None:
    assert Monitor("accuracy", greater_is_better=True).is_better(value, than=than) is when_greater
    assert Monitor("loss", greater_is_better=False).is_better(value, than=than) is when_smaller


def test_it_reads_its_metric_and_a_misspelt_one_is_told_with_those_there_are() -> None:
    record = ValidationRecord(3, {"loss": 0.5, "accuracy": None})
    assert Monitor("loss", greater_is_better=False).read(record) == 0.5
    assert Monitor("accuracy", greater_is_better=True).read(record) is None
    with pytest.raises(SettingsError, match="'acuracy' is not among the validation's: loss, accuracy"):
        Monitor("acuracy", greater_is_better=True).read(record)
