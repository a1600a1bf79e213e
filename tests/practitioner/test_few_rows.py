"""The fewest rows with the defaults: how they are divided, and what is said of classes that are rare."""

from collections import Counter
from pathlib import Path

import pytest
from practitioner.making import sentences, table

from bilora.commands.train import plan_of
from bilora.commands.train_config import TrainConfig
from bilora.engines.settings import LevelSettings
from bilora.errors import DataError
from bilora.runs.columns import find_columns
from bilora.runs.plan import RunPlan, not_in_upper


def plan_of_rows(counts: list[int], folder: Path, **settings: object) -> RunPlan:
    """Return the default plan of so many rows of each class."""
    labels = [name for name, count in zip("abcdefg", counts, strict=False) for _ in range(count)]
    rows = [{"text": text, "label": label} for (text, _), label in zip(sentences(len(labels)), labels, strict=True)]
    config = TrainConfig(train_file=str(table(rows)(folder)), device="cpu", **settings)  # type: ignore[arg-type]
    return plan_of(find_columns(config))


@pytest.mark.parametrize(
    ("counts", "validation", "lower", "upper"),
    [
        ([10, 10], {0: 1, 1: 1}, {0: 7, 1: 7}, {0: 2, 1: 2}),
        ([30, 30], {0: 3, 1: 3}, {0: 22, 1: 21}, {0: 5, 1: 6}),
        ([17, 3], {0: 2}, {0: 12, 1: 2}, {0: 3, 1: 1}),
        # Of a class of one row D1 has it, and nothing else.
        ([16, 2, 1, 1], {0: 2}, {0: 11, 1: 1, 2: 1, 3: 1}, {0: 3, 1: 1}),
    ],
)
def test_the_rows_of_each_class_in_every_part(
    counts: list[int], validation: dict[int, int], lower: dict[int, int], upper: dict[int, int], tmp_path: Path
) -> None:
    plan = plan_of_rows(counts, tmp_path)
    assert plan.split is not None
    assert Counter(plan.rows.validation["validation"].labels) == validation
    assert Counter(plan.train.labels[row] for row in plan.split.lower) == lower
    assert Counter(plan.train.labels[row] for row in plan.split.upper) == upper
    told = " ".join(plan.rows.notices)
    assert ("the classes 'c', 'd' have one training row" in told) == (len(counts) == 4)
    assert ("a batch has 14 rows, and not 16: there are no more for D1" in told) == (sum(counts) == 20)


def test_classes_that_d2_has_no_room_for_are_named(tmp_path: Path) -> None:
    plan = plan_of_rows([6, 5, 3, 2, 2, 2], tmp_path)
    (notice,) = not_in_upper([plan])
    assert notice.startswith("D2 has 4 rows, and none of 'e', 'f': ")


def test_a_batch_size_that_is_given_is_refused_where_the_rows_do_not_fill_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the lower part has 14 rows, fewer than a batch of 16"):
        plan_of_rows([10, 10], tmp_path, lower=LevelSettings(batch_size=16))


def test_fewer_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"rows.csv has 19 rows, and 20 are the fewest to train on: .*; label more rows"
    ):
        plan_of_rows([10, 9], tmp_path)
