"""A call with an argument of a wrong type names it, and what is allowed: every argument of every public function."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from betty.configs import Config
from torch import nn

from bilora import BiloraConfig, export_lora
from bilora.commands.train_config import TrainConfig
from bilora.engines import BilevelEngine, BilevelTrainer, BilevelTrainingArguments, Callback, FitSettings, fit
from bilora.engines.settings import LevelSettings
from bilora.errors import SettingsError
from bilora.problems import LowerProblem, UpperProblem
from bilora.problems.catalog import VARIANTS
from bilora.runs.config import RunConfig
from bilora.runs.trained import open_trained

ANYTHING = {"processing_class", "allow_config_change", "refused", "self"}
WRONG = object()


def plain(call: Any, folder: Path) -> dict[str, Any]:
    """Return arguments that pass the look at their types; the call does not come to use them."""
    module = nn.Linear(1, 1)
    return {
        fit: {"model": module, "rows": [{}], "collate": dict},
        BilevelEngine: {
            "lower": LowerProblem("lower", Config(), module),
            "upper": UpperProblem("upper", Config(), module),
            "steps": 1,
        },
        BilevelTrainer: {"model": module, "args": BilevelTrainingArguments(str(folder), use_cpu=True)},
        export_lora: {"model": module, "folder": folder},
        open_trained: {"folder": folder},
    }[call]


CALLS: list[Callable[..., Any]] = [fit, BilevelEngine, BilevelTrainer, export_lora, open_trained]
CASES = [
    *((call, name, WRONG) for call in CALLS for name in inspect.signature(call).parameters if name not in ANYTHING),
    *((fit, "model", "bert"), (fit, "rows", "text"), (fit, "rows", {"labels": 1}), (fit, "rows", [1, 2])),
    *((fit, "rows", iter([{}])), (fit, "upper_rows", 3), (fit, "collate", None), (fit, "variant", None)),
    *((fit, "variant_settings", {"rank": 2}), (fit, "settings", {"steps": 3}), (fit, "monitor", "accuracy")),
    *((fit, "callbacks", Callback()), (fit, "callbacks", [Callback]), (fit, "folder", 3), (fit, "resume", 3)),
    *((BilevelEngine, "steps", "3"), (BilevelEngine, "steps", 2.5), (BilevelEngine, "steps", True)),
    *((BilevelEngine, "lower", nn.Linear(1, 1)), (BilevelEngine, "hypergradient", 3)),
    *((BilevelEngine, "validate", {"loss": 0.0}), (BilevelEngine, "device", 0)),
    *((BilevelTrainer, "train_dataset", 3), (BilevelTrainer, "peft_config", {"r": 4})),
    *((BilevelTrainer, "compute_metrics", "accuracy"), (BilevelTrainer, "variant_settings", {"rank": 2})),
    *((BilevelTrainer, "callbacks", ["early"]), (BilevelTrainer, "args", {"output_dir": "x"})),
    *((export_lora, "tolerance", "1e-3"), (export_lora, "ranks", 4), (export_lora, "folder", None)),
]


@pytest.mark.parametrize(("call", "name", "value"), CASES)
def test_a_wrong_argument_is_named_with_what_came(
    call: Callable[..., Any], name: str, value: Any, tmp_path: Path
) -> None:
    if call is BilevelTrainer and name == "variant_settings":
        given = plain(call, tmp_path) | {"peft_config": BiloraConfig(r=2, target_modules=["0"])}
        given["model"] = nn.Sequential(nn.Linear(1, 1))
    else:
        given = plain(call, tmp_path)
    with pytest.raises(SettingsError, match=rf"\b{name} is "):
        call(**{**given, name: value})


def test_all_wrong_arguments_are_told_together() -> None:
    with pytest.raises(SettingsError) as raised:
        fit("bert", 3, collate=dict)  # type: ignore[arg-type]
    rows = "rows is 3 (int), allowed: Sequence[Mapping[str, Any]]"
    assert str(raised.value) == f"fit: model is 'bert' (str), allowed: Module; {rows}"


SETTINGS = [
    LevelSettings,
    FitSettings,
    RunConfig,
    TrainConfig,
    *dict.fromkeys(row.settings for row in VARIANTS.values()),
]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (settings, field.name)
        for settings in SETTINGS
        if dataclasses.is_dataclass(settings)
        for field in dataclasses.fields(settings)
    ],
)
def test_a_wrong_setting_is_named(settings: Any, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"\b{name} is "):
        settings(**{name: WRONG})


OWN = sorted(BiloraConfig.__annotations__)


@pytest.mark.parametrize("name", OWN)
def test_a_wrong_setting_of_an_adapter_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"\b{name} is "):
        BiloraConfig(**{name: WRONG})


def test_names_in_one_text_are_no_list() -> None:
    with pytest.raises(SettingsError, match=r"modules_to_save is 'classifier' \(str\), allowed: list\[str\] \| None"):
        BiloraConfig(modules_to_save="classifier")  # type: ignore[arg-type]


def test_a_folder_may_be_a_string(fit_adapter: Callable[..., Any], tmp_path: Path) -> None:
    fit_adapter("bilora", settings={"save_every": 2}, folder=str(tmp_path))
    assert (tmp_path / "checkpoint-4").is_dir()
    resumed = fit_adapter(
        "bilora", settings={"save_every": 2}, folder=str(tmp_path), resume=str(tmp_path / "checkpoint-2")
    )
    assert resumed.result.steps == 4
