"""Which road is chosen by what was right on the trusted rows."""

import pytest

from bilora.runs.road_choice import best_road

ROWS = 100


def right(*counts: int) -> dict[str, list[bool]]:
    names = ("noisy_then_trusted", "correction_then_trusted", "trusted_only")
    # The same rows are right first, so that differences are of the others alone.
    return {name: [row < count for row in range(ROWS)] for name, count in zip(names, counts, strict=True)}


@pytest.mark.parametrize(
    ("counts", "road"),
    [
        ((80, 80, 80), "noisy_then_trusted"),
        ((80, 81, 70), "noisy_then_trusted"),  # one row more is one standard error
        ((80, 84, 70), "correction_then_trusted"),
        ((80, 84, 90), "trusted_only"),
        ((80, 60, 70), "noisy_then_trusted"),
    ],
)
def test_another_road_must_be_surely_better(counts: tuple[int, int, int], road: str) -> None:
    assert best_road(right(*counts)) == road


def test_rows_that_change_both_ways_are_no_proof() -> None:
    default = [row < 80 for row in range(ROWS)]
    # Five rows more right, of forty that differ.
    other = [row >= 17.5 and row < 80 or row >= 80 and row < 100 or row < 5 for row in range(ROWS)]
    assert sum(other) > sum(default)
    found = {"noisy_then_trusted": default, "correction_then_trusted": other, "trusted_only": default}
    assert best_road(found) == "noisy_then_trusted"
