"""The settings of training: every fault is told, and all of them at once."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from bilora.engines.hypergradients.darts import Darts
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.errors import SettingsError
from bilora.settings.sections import resolved

NAN = math.nan
FAULTS: dict[type, dict[str, tuple[Any, ...]]] = {
    LevelSettings: {
        **{"learning_rate": (-1e-3, NAN, math.inf), "weight_decay": (-0.1,), "batch_size": (0,), "accumulation": (0,)},
        **{"schedule": ("cosin",), "warmup": (1.0, -0.1), "gradient_clipping": (-1.0, NAN)},
    },
    FitSettings: {
        **{"steps": (0,), "unroll_steps": (0,), "warmup_steps": (-1,), "split_ratio": (0.0, 1.0), "refresh": (-1,)},
        **{"validate_every": (-1,), "early_stopping": (-1,), "precision": ("fp8",)},
    },
}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(kind, field, value) for kind, table in FAULTS.items() for field, values in table.items() for value in values],
)
def test_a_fault_names_field_and_value(kind: type, field: str, value: Any) -> None:
    section = "level" if kind is LevelSettings else "settings"
    with pytest.raises(SettingsError, match=rf"^{section}: {field} is {value!r}, "):
        kind(**{field: value})


@pytest.mark.parametrize(
    ("kind", "bad", "semicolons"),
    [
        (LevelSettings, {"learning_rate": -1.0, "batch_size": 0, "accumulation": 0, "warmup": 2.0}, 3),
        (FitSettings, {"steps": 0, "unroll_steps": 0, "split_ratio": 2.0, "keep_best": True}, 4),
    ],
)
def test_all_faults_are_told_together(kind: type, bad: dict[str, Any], semicolons: int) -> None:
    with pytest.raises(SettingsError) as raised:
        kind(**bad)
    assert str(raised.value).count(";") == semicolons
    assert all(f"{'validate_every' if field == 'keep_best' else field} is " in str(raised.value) for field in bad)


@pytest.mark.parametrize("edge", [{"learning_rate": 0.0}, {"warmup": 0.0}, {"gradient_clipping": 0.0}])
def test_edges_of_a_level_are_allowed(edge: dict[str, float]) -> None:
    assert resolved(LevelSettings(**edge)).items() >= edge.items()  # type: ignore[arg-type]


@pytest.mark.parametrize("watch", [{"early_stopping": 2}, {"keep_best": True}])
def test_watching_needs_validations_during_the_run(watch: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="validate_every is 0, early_stopping and keep_best look at validations"):
        FitSettings(**watch)
    assert FitSettings(validate_every=1, **watch).validate_every == 1


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("drats", "hypergradient 'drats' is unknown.* Did you mean 'darts'"),
        ({"name": "darts", "radiuss": 1.0}, "has no setting 'radiuss'.* Did you mean 'radius'"),
        ({"name": "darts", "radius": "far"}, "radius"),
        ({"name": "darts", "radius": 0.0}, "radius"),
    ],
)
def test_the_hypergradient_s_faults_are_told_when_the_settings_are_made(chosen: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FitSettings(hypergradient=chosen)


def test_settings_cannot_be_changed_after_the_checks() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FitSettings().steps = 0  # type: ignore[misc]


@pytest.mark.parametrize("settings", [FitSettings(), LevelSettings(learning_rate=1e-5), Darts()])
def test_resolved_settings_are_plain_and_come_back(settings: Any) -> None:
    plain = resolved(settings)
    assert json.loads(json.dumps(plain)) == plain == yaml.safe_load(yaml.safe_dump(plain))
    assert set(plain) == {field.name for field in dataclasses.fields(settings)}


def test_resolved_goes_all_the_way_down() -> None:
    value = {"a": (LevelSettings(), [Path("folder")]), 3: None, "b": True}
    plain = resolved(value)
    assert plain["a"][0]["batch_size"] == 16
    assert plain["a"][1] == ["folder"]
    assert (plain["3"], plain["b"]) == (None, True)
