"""The road from rows to trained parameters: what it is given, what it repeats, and what comes back."""

from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bilora.engines.callbacks import files as metrics_file
from bilora.engines.callbacks.callback import Callback
from bilora.engines.callbacks.files import MetricsFile
from bilora.engines.settings import LevelSettings
from bilora.errors import DataError, SettingsError
from bilora.metrics.monitor import Monitor
from bilora.problems.catalog import VARIANTS

Fit = Callable[..., Any]


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def drawn() -> dict[str, float | None]:
    return {"drawn": float(torch.rand(1))}


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_the_same_fit_twice_and_another_seed(method: str, fit_adapter: Fit, tmp_path: Path) -> None:
    """With dropout on, so that masks, order, split and head all have to come from the seed."""
    files, parameters = [], []
    for name, seed in (("once", 3), ("twice", 3), ("other", 4)):
        path = tmp_path / f"{name}.jsonl"
        settings = {"seed": seed, "validate_every": 2}
        fitted = fit_adapter(method, settings=settings, validate=drawn, callbacks=[MetricsFile(path)])
        files.append(path.read_bytes())
        parameters.append(fitted.parameters())
    assert files[0] == files[1] != files[2]
    assert equal(parameters[0], parameters[1]) and not equal(parameters[0], parameters[2])


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_validation_does_not_change_what_is_trained(method: str, fit_adapter: Fit) -> None:
    plain = fit_adapter(method)
    validated = fit_adapter(method, settings={"validate_every": 1}, validate=drawn)
    assert equal(plain.parameters(), validated.parameters())


def test_the_two_levels_read_their_own_rows_only(fit_pair: Fit) -> None:
    fitted = fit_pair(steps=24)
    (split,) = fitted.result.splits
    assert set(chain(*fitted.model.seen["lower"])) == set(split.lower)
    assert set(chain(*fitted.model.seen["upper"])) == set(split.upper)
    assert (len(split.lower), len(split.upper)) == (32, 8)


def test_a_single_level_trains_on_all_rows(fit_pair: Fit) -> None:
    fitted = fit_pair(single=True, steps=10)
    assert set(chain(*fitted.model.seen["lower"])) == set(range(40))
    assert fitted.model.seen["upper"] == []
    assert (fitted.result.splits, fitted.result.upper_steps) == ((), 0)


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_the_split_is_stratified_and_covers_all_where_there_is_one(method: str, fit_adapter: Fit) -> None:
    splits, variant = fit_adapter(method).result.splits, VARIANTS[method]
    assert len(splits) == variant.splits_rows(variant.settings())
    for split in splits:
        assert sorted((*split.lower, *split.upper)) == list(range(40))
        assert sum(row % 2 for row in split.upper) == len(split.upper) // 2 == 4


@pytest.mark.parametrize(("ratio", "part"), [(0.8, "upper"), (0.2, "lower")])
def test_too_few_rows_are_told_by_level(fit_pair: Fit, ratio: float, part: str) -> None:
    with pytest.raises(DataError, match=f"the {part} part has 2 rows, fewer than a batch of 4"):
        fit_pair(rows=12, split_ratio=ratio)


@pytest.mark.parametrize("method", ["bilora", "lora", "pseudo_svd"])
def test_accumulated_micro_batches_are_one_batch(method: str, fit_adapter: Fit) -> None:
    """Two micro-batches of 4 rows give the gradient of one batch of 8, and the hypergradient too; in float64."""
    whole, halves = (
        fit_adapter(method, settings={"steps": 6, "lower": lower}, base_dropout=0.0, dtype=torch.float64).parameters()
        for lower in (
            LevelSettings(batch_size=8, learning_rate=1e-2),
            LevelSettings(batch_size=4, accumulation=2, learning_rate=1e-2),
        )
    )
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=0, atol=1e-9, msg=f"{name} differs")


def test_accumulation_above_counts_optimizer_steps(fit_pair: Fit) -> None:
    fitted = fit_pair(steps=12, unroll_steps=2, upper=LevelSettings(batch_size=4, accumulation=2))
    steps = [(record.step, record.upper.step) for record in fitted.records.steps if record.upper]
    assert steps == [(2, 1), (4, 2), (6, 3), (8, 4), (10, 5), (12, 6)]
    assert fitted.result.upper_steps == 6
    assert len(fitted.model.seen["upper"]) == 12


def test_accumulation_below_counts_optimizer_steps(fit_pair: Fit) -> None:
    fitted = fit_pair(steps=6, unroll_steps=3, lower=LevelSettings(batch_size=4, accumulation=3))
    assert [record.step for record in fitted.records.steps] == [1, 2, 3, 4, 5, 6]
    assert (fitted.result.steps, fitted.result.upper_steps) == (6, 2)
    assert len(fitted.model.seen["lower"]) == 18


def test_bf16_runs_matrix_products_in_bf16_and_keeps_float32_parameters(fit_adapter: Fit) -> None:
    seen: set[torch.dtype] = set()

    class Watch(Callback):
        def on_run_start(self, engine: Any) -> None:
            base = engine.lower_level.module.get_base_model()
            base.bert.pooler.dense.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))

    full, half = (
        fit_adapter("bilora", settings={"precision": precision}, callbacks=[Watch()]).parameters()
        for precision in ("fp32", "bf16")
    )
    assert seen == {torch.float32, torch.bfloat16}
    assert {parameter.dtype for parameter in half.values()} == {torch.float32}
    assert not equal(full, half)


def test_result_of_a_fit(fit_pair: Fit) -> None:
    result = fit_pair(validate=lambda: {"score": 0.5}).result
    assert (result.steps, result.upper_steps, result.metrics) == (8, 4, {"score": 0.5})
    assert (result.best_step, result.stop_reason) == (None, None) and result.seconds > 0
    assert fit_pair().result.metrics is None


def test_adalora_ends_with_the_ranks_of_its_best_validation(fit_adapter: Fit) -> None:
    """The ranks that AdaLoRA kept at the best step come back with its parameters, though it has pruned on since."""
    patterns: dict[int, Any] = {}

    class Watch(Callback):
        def on_validation(self, engine: Any, record: Any) -> None:
            pattern = engine.lower_level.extra_state()["rank_pattern"]
            patterns[record.step] = {name: list(kept) for name, kept in pattern.items()} if pattern else None

    script = iter([0.1, 0.9, 0.5, 0.5, 0.5, 0.5])
    fitted = fit_adapter(
        "adalora",
        settings={"steps": 12, "validate_every": 2, "keep_best": True},
        validate=lambda: {"score": next(script)},
        monitor=Monitor("score", greater_is_better=True),
        callbacks=[Watch()],
        initial_rank=6,
    )
    assert fitted.result.best_step == 4
    assert fitted.model.peft_config["default"].rank_pattern == patterns[4]
    assert patterns[4] != patterns[12], "nothing was pruned after the best step: the test would show nothing"


@pytest.mark.parametrize("watch", [{"early_stopping": 2}, {"keep_best": True}])
@pytest.mark.parametrize("given", [{}, {"validate": dict}, {"monitor": Monitor("loss", greater_is_better=False)}])
def test_watching_needs_something_to_watch(fit_pair: Fit, watch: Any, given: Any) -> None:
    with pytest.raises(SettingsError, match="give 'validate' and 'monitor'"):
        fit_pair(validate_every=1, **watch, **given)


def test_an_unknown_variant(fit_adapter: Fit) -> None:
    with pytest.raises(SettingsError, match="method 'bilroa' is unknown.* Did you mean 'bilora'"):
        fit_adapter("bilroa")


def test_metrics_files_do_not_know_the_clock() -> None:
    """What would break the comparison byte by byte above, on a slow day only."""
    methods = [method for method in vars(metrics_file.MetricsFile).values() if hasattr(method, "__code__")]
    assert methods
    assert not {"time", "datetime"} & {name for method in methods for name in method.__code__.co_names}
