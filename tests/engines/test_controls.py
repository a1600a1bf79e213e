"""The controls against what they are controls for: the same numbers where they must be the same."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.settings import LevelSettings
from bilora.errors import SettingsError
from bilora.files.formats import read_lines
from bilora.problems import VARIANTS

Fit = Callable[..., Any]


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


class Watch(Callback):
    """Keeps each stage's level, its number of rows, and what its parameters were at the start."""

    def __init__(self) -> None:
        self.levels: list[Any] = []
        self.rows: list[int] = []

    def on_stage_start(self, engine: Any) -> None:
        self.levels.append(engine.lower_level)
        self.rows.append(len(engine.lower_level.train_data_loader[0].dataset))


def test_alternating_is_bilora_without_the_implicit_term(fit_adapter: Fit, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    alternating = fit_adapter("alternating", settings={"hypergradient": "darts"}, callbacks=[MetricsFile(path)])
    first_order, darts = (fit_adapter("bilora", settings={"hypergradient": name}) for name in ("first_order", "darts"))
    assert equal(alternating.parameters(), first_order.parameters())
    assert not equal(alternating.parameters(), darts.parameters())
    assert {line["implicit_norm"] for line in read_lines(path) if "implicit_norm" in line} == {0.0}


def test_two_stage_trains_the_vectors_and_then_the_values(fit_adapter: Fit) -> None:
    watch = Watch()
    upper = LevelSettings(batch_size=4, learning_rate=0.25, schedule="constant", warmup=0.0)
    fitted = fit_adapter("two_stage", settings={"upper": upper}, callbacks=[watch], formulation="binary")
    vectors, values = watch.levels
    assert watch.rows == [32, 8]
    assert {name.split("bilora_")[-1][0] for name in values.named_level_parameters()} == {"E"}
    assert not set(vectors.named_level_parameters()) & set(values.named_level_parameters())
    assert [(stage.name, stage.steps) for stage in fitted.result.stages] == [("vectors", 4), ("values", 2)]
    assert values.report.learning_rates == (0.25,)
    assert set(vectors.report.parts) == set(values.report.parts) == {"task_loss", "penalty"}


def test_two_stage_ends_with_the_vectors_of_the_first_stage(fit_adapter: Fit) -> None:
    fitted = fit_adapter("two_stage").parameters()
    lower = fit_adapter("two_stage", settings={"upper": LevelSettings(batch_size=8, learning_rate=0.0)}).parameters()
    for name, weight in lower.items():
        assert torch.equal(weight, fitted[name]) == ("bilora_E" not in name)


def test_retraining_lora_of_one_part_is_lora(fit_adapter: Fit) -> None:
    """Bit for bit: the same start, the same order of the rows, the same masks."""
    watch = Watch()
    plain, again = fit_adapter("lora"), fit_adapter("lora_d1", settings={"ending": "retrain"}, callbacks=[watch])
    assert watch.rows == [32, 40]
    assert equal(plain.parameters(), again.parameters())
    assert not equal(plain.parameters(), fit_adapter("lora_d1").parameters())


def test_early_stopping_on_the_other_part_is_lora_there_until_it_stops(fit_adapter: Fit) -> None:
    """With a patience that is never spent and looks at the last step only, it is LoRA on D1."""
    plain = fit_adapter("lora_d1", settings={"steps": 6})
    watched = fit_adapter("lora_early_stopping", settings={"steps": 6}, every=6)
    assert equal(plain.parameters(), watched.parameters())
    assert (watched.result.best_step, watched.result.stop_reason) == (6, None)


def test_early_stopping_stops(fit_adapter: Fit) -> None:
    rates = LevelSettings(batch_size=8, learning_rate=0.3, schedule="constant")
    result = fit_adapter("lora_early_stopping", settings={"steps": 60, "lower": rates}, every=1, patience=3).result
    assert result.steps < 60
    assert result.best_step == result.steps - 3
    assert "loss was not better than" in result.stop_reason


@pytest.mark.parametrize("bad", [{"every": 0}, {"patience": 0}])
def test_early_stopping_settings(bad: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="adapter: .* is 0, it must be at least 1"):
        VARIANTS["lora_early_stopping"].settings(**bad)


def test_dora_is_peft_s(fit_adapter: Fit) -> None:
    fitted = fit_adapter("dora")
    assert fitted.model.peft_config["default"].use_dora
    assert any("lora_magnitude_vector" in name for name in fitted.parameters())
