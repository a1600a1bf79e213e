"""Which settings may differ on a resume."""

import dataclasses
from typing import Any

import pytest

from bilora.engines.checkpoints.config_change import ALLOWED, FREE, check_changes
from bilora.engines.settings import LevelSettings
from bilora.errors import CheckpointError
from bilora.runs.config import RunConfig


def test_the_lists_name_settings_that_there_are() -> None:
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    levels = {f"{level}.{field.name}" for level in ("lower", "upper") for field in dataclasses.fields(LevelSettings)}
    assert fields >= FREE
    assert fields | levels >= ALLOWED
    assert not FREE & ALLOWED


@pytest.mark.parametrize("allow", [True, False])
def test_what_decides_no_number_may_differ(allow: bool) -> None:
    assert check_changes({"save_every": 1, "output": "a"}, {"save_every": 2, "output": "b"}, allow=allow) == []


BEFORE = {"seed": 0, "lower": {"batch_size": 8, "learning_rate": 0.1}}
AFTER = {"seed": 1, "lower": {"batch_size": 4, "learning_rate": 0.2}, "rank": 2}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (BEFORE, AFTER, "seed: 0 -> 1; lower.batch_size: 8 -> 4; rank: None -> 2$"),
        ({"a": "darts"}, {"a": {"name": "darts"}}, "a: 'darts' -> None; a.name: None -> 'darts'$"),
    ],
)
def test_all_that_may_not_differ_is_told(before: dict[str, Any], after: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=f"cannot change within a run: {told}"):
        check_changes(before, after, allow=True)


@pytest.mark.parametrize(
    ("saved", "then"),
    [
        ("darts", {"name": "darts", "finite_difference": "central", "scale": "one"}),
        ({"name": "darts", "products": "exact"}, {"name": "darts", "products": "exact", "scale": "one"}),
    ],
)
def test_a_setting_that_was_not_saved_was_the_default_of_then(saved: Any, then: dict[str, str]) -> None:
    assert check_changes({"hypergradient": saved}, {"hypergradient": then}, allow=False) == []
    with pytest.raises(CheckpointError, match="hypergradient.scale: 'one' -> 'learning_rate'"):
        check_changes({"hypergradient": saved}, {"hypergradient": {**then, "scale": "learning_rate"}}, allow=True)
