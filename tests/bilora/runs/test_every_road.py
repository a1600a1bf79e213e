"""The recommended settings are the same by every road, and a setting that is given changes nothing but itself."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import NonCallableMock

import pytest
from peft import PeftModel

from bilora import BiloraConfig
from bilora.commands.command_line import parse_config
from bilora.commands.train import TRAIN
from bilora.engines import BilevelTrainingArguments
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import settings_of_adapter
from bilora.files.formats import write_yaml
from bilora.problems.catalog import find_variant
from bilora.problems.variants.bilora import BiloraSettings
from bilora.runs.config import RunConfig
from bilora.runs.several_runs import SeveralRuns
from bilora.settings.sections import resolved

SAME = ("hypergradient", "lower", "upper", "split_ratio", "unroll_steps")
"""The sections and settings that are the same everywhere, beside the method's own."""

CHANGES: list[dict[str, Any]] = [
    {},
    {"method_settings": {"bilora": {"rank": 4}}},
    {"method_settings": {"bilora": {"rank": 8}}},  # the default
    {"method_settings": {"bilora": {"alpha": 4.0}}},
    {"method_settings": {"bilora": {"formulation": "softmax"}}},
    {"method_settings": {"bilora": {"normalized": False}}},
    {"method_settings": {"bilora": {"orthogonality": 0.2}}},
    {"hypergradient": {"radius": 0.05}},
    {"hypergradient": {"products": "exact"}},
    {"hypergradient": {"name": "darts"}},
    {"hypergradient": {"name": "neumann", "products": "exact"}},
    {"lower": {"batch_size": 4}},
    {"lower": {"learning_rate": 0.002}},
    {"upper": {"batch_size": 4}},
    {"upper": {"schedule": "constant"}},
    {"split_ratio": 0.5},
    {"unroll_steps": 2},
]


def sections(config: Any, method: Any) -> dict[str, Any]:
    """Return the settings that are the same everywhere, resolved."""
    return {name: resolved(getattr(config, name)) for name in SAME} | {"bilora": resolved(method)}


def of_run(config: RunConfig) -> dict[str, Any]:
    return sections(config, config.variant_settings)


def words(settings: Mapping[str, Any], prefix: str = "--") -> list[str]:
    """Return settings as dotted words."""
    options: list[str] = []
    for name, value in settings.items():
        option = f"{prefix}{name.replace('_', '-')}"
        options += words(value, f"{option}.") if isinstance(value, Mapping) else [option, str(value).lower()]
    return options


def by_command(change: dict[str, Any], folder: Path) -> dict[str, Any]:
    return of_run(TRAIN.parse(["--method", "bilora", *words(change)]))


def by_several(change: dict[str, Any], folder: Path) -> dict[str, Any]:
    return of_run(parse_config(SeveralRuns, ["--method", "bilora", *words(change)], prog="", description="").runs[0])


def by_yaml(change: dict[str, Any], folder: Path) -> dict[str, Any]:
    write_yaml(folder / "config.yaml", {"method": "bilora", **change})
    return of_run(TRAIN.parse(["--config", str(folder / "config.yaml")]))


def by_fit(change: dict[str, Any], folder: Path) -> dict[str, Any]:
    given = {name: LevelSettings(**value) if name in ("lower", "upper") else value for name, value in change.items()}
    method = BiloraSettings(**given.pop("method_settings", {}).get("bilora", {}))
    return sections(FitSettings(**given), method)


def by_config(change: dict[str, Any], folder: Path) -> dict[str, Any]:
    """With the adapter's settings from PEFT's config of it, as in a fit without settings of the method."""
    given = dict(change)
    settings = dict(given.pop("method_settings", {}).get("bilora", {}))
    penalty = {"orthogonality": settings.pop("orthogonality")} if "orthogonality" in settings else {}
    config = BiloraConfig(**{"r" if name == "rank" else name: value for name, value in settings.items()})
    model = NonCallableMock(spec=PeftModel, peft_config={"default": config}, active_adapter="default")
    method = dataclasses.replace(settings_of_adapter(model, find_variant("bilora")), **penalty)
    return by_fit(given, folder) | {"bilora": resolved(method)}


TRAINER = {
    "batch_size": ("per_device_train_batch_size", "upper_train_batch_size"),
    "learning_rate": ("learning_rate", "upper_learning_rate"),
}


def by_trainer(change: dict[str, Any], folder: Path) -> dict[str, Any]:
    given = {name: value for name, value in change.items() if name not in ("method_settings", "lower", "upper")}
    for index, level in enumerate(("lower", "upper")):
        # Its batches are those of transformers unless they are given.
        for name, value in {"batch_size": 16, **change.get(level, {})}.items():
            given[TRAINER[name][index]] = value
    settings = BilevelTrainingArguments(str(folder), **given).fit_settings(rows=100, splits=True)
    method = BiloraSettings(**change.get("method_settings", {}).get("bilora", {}))
    return sections(settings, method)


@pytest.mark.parametrize("road", [by_command, by_several, by_yaml, by_config, by_trainer])
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_setting_means_the_same_by_every_road(change: dict[str, Any], road: Any, tmp_path: Path) -> None:
    if road is by_trainer and "schedule" in change.get("upper", {}):
        change = {}  # it has one schedule for both levels
    assert road(change, tmp_path) == by_fit(change, tmp_path)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_setting_changes_nothing_else(change: dict[str, Any], tmp_path: Path) -> None:
    plain, changed = by_fit({}, tmp_path), by_fit(change, tmp_path)
    given = {"bilora": change.get("method_settings", {}).get("bilora", {}), **change}
    for name, section in plain.items():
        if isinstance(section, dict) and name in ("lower", "upper", "bilora"):
            others = [key for key in section if key not in given.get(name, {})]
            # The two that follow from another: unit lengths from the formulation, the penalty from unit lengths.
            others = [key for key in others if key not in ("normalized", "orthogonality") or "rank" in given[name]]
            assert {key: changed[name][key] for key in others} == {key: section[key] for key in others}
        elif name not in given:
            assert changed[name] == section


def test_the_recommended_values() -> None:
    method, settings = BiloraSettings(), FitSettings()
    assert (method.formulation, method.normalized, method.orthogonality) == ("real", True, 0.0)
    darts = {"name": "darts", "finite_difference": "forward", "scale": "learning_rate"}
    assert settings.hypergradient == darts
    assert (settings.lower.learning_rate, settings.upper.learning_rate) == (3e-3, 0.1)
    adapter = BiloraConfig()
    assert (adapter.formulation, adapter.normalized) == ("real", True)


def test_what_the_rows_decide_is_left_open_by_the_command_alone() -> None:
    names = ("steps", "validate_every", "refresh", "early_stopping", "keep_best")
    assert [getattr(TRAIN.parse([]), name) for name in (*names, "validation_share")] == [None] * 6
    plain = [300, 0, 0, 0, False]
    assert [getattr(FitSettings(), name) for name in names] == plain
    assert [getattr(RunConfig(), name) for name in (*names, "validation_share")] == [*plain, 0.1]
