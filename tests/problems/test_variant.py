"""The settings that every adapter has, and stages: parts that fit each other."""

import dataclasses
from functools import partial
from typing import Any

import pytest

from bilora.errors import SettingsError
from bilora.problems import VARIANTS, AdapterSettings, LowerProblem, Stage, UpperProblem, Watch

STAGE = partial(Stage, "a", LowerProblem)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(SettingsError, match="rank is 0, .*; alpha is -1, .*; dropout is 2, "):
        AdapterSettings(rank=0, alpha=-1, dropout=2)


def test_edges_are_allowed() -> None:
    settings = AdapterSettings(rank=1, alpha=1e-6, dropout=0.0, target_modules=["query"])
    assert (settings.rank, settings.target_modules) == (1, ["query"])


def test_settings_and_variants_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdapterSettings().rank = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        VARIANTS["lora"].name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("parts", "splits"),
    [
        ({}, False),
        ({"upper": UpperProblem}, True),
        ({"rows": "lower"}, True),
        ({"rows": "upper"}, True),
        ({"rows": "lower", "watch": Watch(every=3, patience=2)}, True),
    ],
)
def test_which_stages_divide_the_rows(parts: Any, splits: bool) -> None:
    assert STAGE(**parts).splits == splits


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (partial(STAGE, watch=Watch()), "only a stage on the rows of 'lower' can watch those of 'upper'"),
        (partial(STAGE, upper=UpperProblem, rows="lower"), "a bi-level stage has its rows already; leave rows out"),
        (partial(STAGE, steps=-1), "steps is -1; it must not be negative"),
        (partial(Watch, every=0), "watch: every is 0, it must be at least 1"),
        (partial(Watch, patience=0), "watch: patience is 0, it must be at least 1"),
    ],
)
def test_stages_and_watches_that_make_no_sense(make: Any, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        make()
