import itertools
import random
from collections.abc import Iterable

import pytest

from bilora.data.strata import draw_rows, make_strata, share_out
from bilora.errors import DataError


def test_strata_of_classes_numbers_and_none() -> None:
    assert make_strata([2, 0, 2], bins=5) == {0: [1], 2: [0, 2]}
    assert make_strata([None, None], bins=5) == {None: [0, 1]}
    assert make_strata([3.0, 1.0, 2.0, 0.0, 5.0], bins=2) == {0: [1, 3], 1: [0, 2, 4]}
    assert make_strata([], bins=0) == {}


@pytest.mark.parametrize("labels", [[0, 1.0], [0, None], [1.0, None], [0, True], [1.0, float("nan")]])
def test_labels_of_different_types_and_nan(labels: list[float | None]) -> None:
    nan = all(isinstance(label, float) for label in labels)
    with pytest.raises(DataError, match="NaN or an infinity" if nan else "labels are of different types"):
        make_strata(labels, bins=2)


def test_bins_are_in_order_and_of_equal_size() -> None:
    numbers = [random.Random(seed).random() for seed in range(103)]
    strata = make_strata(numbers, bins=10)
    assert sorted(itertools.chain(*strata.values())) == list(range(103))
    assert {len(positions) for positions in strata.values()} == {10, 11}
    for low, high in itertools.pairwise(strata.values()):
        assert max(numbers[row] for row in low) <= min(numbers[row] for row in high)


def test_shares_against_a_search_over_all_of_them() -> None:
    """Largest remainders are the nearest whole numbers to the quotas: compared with every allowed share."""

    def distance(shares: Iterable[int], sizes: list[int]) -> int:
        return sum((share * sum(sizes) - total * size) ** 2 for share, size in zip(shares, sizes, strict=True))

    numbers = random.Random(0)
    for _ in range(200):
        sizes = [numbers.randint(2, 7) for _ in range(3)]
        total = numbers.randint(3, sum(sizes) - 3)
        shares = share_out(total, dict(enumerate(sizes)), least=1, spare=1).values()
        allowed = [others for others in itertools.product(*(range(1, size) for size in sizes)) if sum(others) == total]
        assert sum(shares) == total
        assert distance(shares, sizes) == min(distance(others, sizes) for others in allowed)


def test_a_draw_depends_on_its_key_alone() -> None:
    strata = {0: list(range(50)), 1: list(range(50, 80))}
    counts = {0: 20, 1: 5}
    first = draw_rows(strata, counts, key="a 0")
    random.seed(1)
    assert draw_rows(strata, counts, key="a 0") == first
    others = {draw_rows(strata, counts, key=key) for key in ("a 1", "b 0", "a 2")}
    assert len(others | {first}) == 4
    assert sum(row < 50 for row in first) == 20 and len(set(first)) == 25


def test_every_row_is_drawn_equally_often() -> None:
    counts = [0] * 10
    for seed in range(2000):
        for position in draw_rows({0: list(range(10))}, {0: 3}, key=f"fair {seed}"):
            counts[position] += 1
    # 600 expected each, standard deviation 20.5
    assert all(abs(count - 600) < 5 * 20.5 for count in counts)
