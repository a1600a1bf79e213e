import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from bilora.data.split import split_rows
from bilora.errors import DataError, SettingsError
from bilora.tasks.catalog import find_task

IMBALANCED = [0] * 990 + [1] * 10


@pytest.mark.parametrize("labels", [[0, 1] * 50, IMBALANCED, [0] * 20 + [1] * 3 + [2] * 2, [None] * 11])
@pytest.mark.parametrize("ratio", [0.5, 0.66, 0.8])
def test_the_parts_are_disjoint_complete_and_of_the_size_asked_for(labels: list[int], ratio: float) -> None:
    split = split_rows(labels, ratio=ratio, seed=3)
    assert sorted(split.lower + split.upper) == list(range(len(labels)))
    assert len(split.lower) == round(ratio * len(labels))
    assert list(split.lower) == sorted(split.lower) and list(split.upper) == sorted(split.upper)


def test_every_class_is_in_both_parts_and_keeps_its_share() -> None:
    labels = [0] * 40 + [1] * 2 + [2] * 2 + [3] * 6
    for seed in range(20):
        random.Random(seed).shuffle(labels)
        split = split_rows(labels, seed=seed)
        assert {labels[row] for row in split.lower} == {labels[row] for row in split.upper} == {0, 1, 2, 3}
    assert Counter(IMBALANCED[row] for row in split_rows(IMBALANCED, seed=0).lower) == {0: 792, 1: 8}


def test_a_class_of_one_row_and_classes_that_d2_has_no_room_for_are_in_d1_alone() -> None:
    labels = [0] * 8 + [1] * 8 + [2] * 3 + [3]
    for seed in range(10):
        split = split_rows(labels, seed=seed)
        assert sorted(split.lower + split.upper) == list(range(20)) and len(split.upper) == 4
        assert {labels[row] for row in split.lower} == {0, 1, 2, 3}
        assert {labels[row] for row in split.upper} == {0, 1, 2}
        few = split_rows(labels, ratio=0.9, seed=seed)
        assert sorted(labels[row] for row in few.upper) == [0, 1]


def test_numbers_are_spread_over_both_parts() -> None:
    numbers = [random.Random(row).random() for row in range(200)]
    ranks = numpy.argsort(numpy.argsort(numbers))
    assert Counter(ranks[row] * 10 // 200 for row in split_rows(numbers, seed=0).upper) == dict.fromkeys(range(10), 4)


@pytest.mark.parametrize("count", range(2, 12))
def test_few_numbers_can_be_split(count: int) -> None:
    split = split_rows([float(row) for row in range(count)], ratio=0.5, seed=0)
    assert len(split.lower) == round(count / 2) and len(split.upper) == count - len(split.lower)


def test_the_same_seed_gives_the_same_split_whatever_the_global_state() -> None:
    assert split_rows([0, 1, 1, 0, 1, 0, 1, 0, 0, 1], seed=0).upper == (5, 9), "pinned: earlier results used it"
    first = split_rows(IMBALANCED, seed=1)
    random.seed(99)
    numpy.random.seed(99)
    before = random.getstate(), numpy.random.get_state()[1].tolist()
    assert split_rows(IMBALANCED, seed=1) == first
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before
    assert split_rows(IMBALANCED, seed=2).lower != first.lower
    assert split_rows(IMBALANCED, seed=-1).lower != first.lower


def test_another_process_gives_the_same_split(output_without_torch: Callable[..., str]) -> None:
    code = "from bilora.data.split import split_rows; print(split_rows([0, 1] * 20, seed=4).upper)"
    for hash_seed in ("1", "2"):
        output = output_without_torch(code, PYTHONHASHSEED=hash_seed)
        assert output == str(split_rows([0, 1] * 20, seed=4).upper)


def test_draws_of_two_seeds_never_meet() -> None:
    uppers = [split_rows(IMBALANCED, ratio=0.7, seed=seed, draw=draw).upper for seed in (5, 6) for draw in range(4)]
    assert len(set(uppers)) == 8
    with pytest.raises(SettingsError, match="draw is -1"):
        split_rows(IMBALANCED, seed=5, draw=-1)


@pytest.mark.parametrize(
    ("labels", "ratio", "text"),
    [
        *(([0, 1] * 10, ratio, "ratio is .*between 0 and 1") for ratio in (0.0, 1.0, -0.2, 8.0, float("nan"))),
        ([], 0.8, "0 training rows cannot be split"),
        ([0], 0.8, "1 training rows cannot be split"),
        ([0, 1, 2, 3], 0.5, r"ratio 0.5 of 4 training rows gives 2 to the lower and 2.*\(there are 4\)"),
        ([0, 0, 1, 1], 0.2, "gives 1 to the lower and 3 to the upper"),
        ([0.5, 1.5], 0.9, "gives 2 to the lower and 0 to the upper"),
        ([None, None], 0.1, "gives 0 to the lower and 2 to the upper"),
    ],
)
def test_refusals(labels: list[int | float | None], ratio: float, text: str) -> None:
    with pytest.raises(SettingsError if text.startswith("ratio is") else DataError, match=text):
        split_rows(labels, ratio=ratio, seed=0)


def test_json_has_the_row_ids() -> None:
    split = split_rows([0, 1] * 5, seed=0)
    ids = {part: [100 + row for row in getattr(split, part)] for part in ("lower", "upper")}
    assert split.to_json(ids=range(100, 110)) == {"seed": 0, "ratio": 0.8, "draw": 0, **ids}
    assert split.to_json()["lower"] == list(split.lower)


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "wnli", "mnli"])
def test_real_labels(name: str, glue_folder: Path) -> None:
    labels = find_task(name).load_rows(glue_folder).train.labels
    split = split_rows(labels, seed=0)
    assert len(split.lower) == round(0.8 * len(labels)) and not set(split.lower) & set(split.upper)
    if name != "stsb":
        whole, upper = Counter(labels), Counter(labels[row] for row in split.upper)
        assert all(abs(upper[label] - 0.2 * whole[label]) < 1 for label in whole)
