"""The settings that every adapter has, and stages: parts that fit each other."""

import dataclasses
import math
from typing import Any

import pytest

from bilora.errors import SettingsError
from bilora.problems import VARIANTS, AdapterSettings, LowerProblem, Stage, UpperProblem, Watch


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("rank", 0, "it must be at least 1"),
        ("alpha", 0.0, "it must be positive"),
        ("alpha", math.inf, "it must be positive"),
        ("alpha", math.nan, "it must be positive"),
        ("dropout", -0.1, r"it must be in \[0, 1\)"),
        ("dropout", 1.0, r"it must be in \[0, 1\)"),
        ("dropout", math.nan, r"it must be in \[0, 1\)"),
    ],
)
def test_values_out_of_range(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"adapter: {name} is {value}, {allowed}"):
        AdapterSettings(**{name: value})


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
    ("own", "splits"),
    [
        ({}, False),
        ({"upper": UpperProblem}, True),
        ({"rows": "lower"}, True),
        ({"rows": "upper"}, True),
        ({"rows": "lower", "watch": Watch(every=3, patience=2)}, True),
    ],
)
def test_which_stages_divide_the_rows(own: Any, splits: bool) -> None:
    assert Stage("a", LowerProblem, **own).splits == splits


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"rows": "all", "watch": Watch()}, "only a stage on the rows of 'lower' can watch those of 'upper'"),
        ({"upper": UpperProblem, "rows": "lower"}, "a bi-level stage has its rows already; leave rows out"),
        ({"steps": -1}, "steps is -1; it must not be negative"),
    ],
)
def test_stages_that_make_no_sense(bad: Any, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        Stage("a", LowerProblem, **bad)


@pytest.mark.parametrize("bad", [{"every": 0}, {"patience": 0}])
def test_a_watch_of_nothing(bad: Any) -> None:
    with pytest.raises(SettingsError, match="watch: .* is 0, it must be at least 1"):
        Watch(**bad)
