"""The settings that every adapter has."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from bilora.errors import SettingsError
from bilora.problems import VARIANTS, AdapterSettings


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
