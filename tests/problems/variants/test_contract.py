"""What every row of the table of variants must do, on a tiny BERT with its adapter."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fingerprint import assert_same
from peft import PeftModel
from torch import Tensor, nn

from bilora.engines.bilevel import BilevelEngine
from bilora.engines.callbacks.callback import Callback
from bilora.engines.settings import FitSettings, LevelSettings
from bilora.engines.training.fit import fit
from bilora.engines.training.result import FitResult
from bilora.errors import SettingsError
from bilora.problems import VARIANTS, Level

Adapted = Callable[..., PeftModel]
Batches = list[dict[str, Tensor]]
STEPS = 8

BILEVEL = {name for name, variant in VARIANTS.items() if variant.upper is not None}
"""Methods with two levels in one stage."""

SPLIT = {name for name, variant in VARIANTS.items() if variant.splits_rows(variant.settings())}
"""Methods that divide the rows."""

every_variant = pytest.mark.parametrize("name", VARIANTS)


class Levels(Callback):
    """Keeps the levels of every stage, and a copy of their parameters where the stage starts."""

    def __init__(self) -> None:
        self.levels: list[Level] = []
        self.before: list[dict[str, Tensor]] = []

    def on_stage_start(self, engine: BilevelEngine) -> None:
        for level in engine.levels:
            self.levels.append(level)
            self.before.append({key: each.detach().clone() for key, each in level.named_level_parameters().items()})


def stack(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}


def rows_of(batches: Batches) -> list[dict[str, Any]]:
    """The rows of the batches, with labels as numbers, as a data set has them."""
    return [
        {key: int(each[index]) if key == "labels" else each[index] for key, each in batch.items()}
        for batch in batches
        for index in range(len(batch["labels"]))
    ]


def train(name: str, model: PeftModel, batches: Batches, **settings: Any) -> tuple[Levels, FitResult]:
    """Train by the one road there is, with the variant's own stages and ending."""
    seen = Levels()
    own = {"unroll_steps": 2, "device": "cpu", "steps": STEPS, "split_ratio": 0.5, **settings}
    own["lower"] = LevelSettings(learning_rate=1e-2, batch_size=2)
    own["upper"] = LevelSettings(learning_rate=1e-1, batch_size=2)
    result = fit(
        model,
        rows_of(batches),
        collate=stack,
        variant=name,
        variant_settings=VARIANTS[name].settings(rank=4),
        settings=FitSettings(**own),
        callbacks=[seen],
    )
    return seen, result


def frozen(model: PeftModel) -> dict[str, Tensor]:
    return {name: each for name, each in model.named_parameters() if not each.requires_grad}


def bits(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().view(torch.uint8).clone() for name, tensor in tensors.items()}


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    # Without labels: PEFT's AdaLoRA, loaded for inference, cannot add its regularizer to a loss.
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    found: Tensor = model.eval()(**inputs).logits
    return found


@every_variant
def test_levels_divide_the_trainable_parameters(name: str, adapted: Adapted, bert_batches: Batches) -> None:
    """In a stage each belongs to one level at most, over the stages each to one, and none to a level that is not."""
    model = adapted(name)
    seen, result = train(name, model, bert_batches, ending="keep")
    companion = seen.levels[0].companion
    named = dict(model.named_parameters()) | ({} if companion is None else dict(companion.named_parameters()))
    assert len(result.stages) == (2 if name == "two_stage" else 1)
    held = [id(each) for level in seen.levels for each in level.trainable_parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(each) for each in named.values() if each.requires_grad}
    for level in seen.levels:
        assert all(named[key] is each for key, each in level.named_level_parameters().items())


def test_which_methods_have_two_levels_and_which_divide_the_rows() -> None:
    assert {"bilora", "learned_decay", "learned_decay_bilora", "autolora", "bidora", "alternating"} <= BILEVEL <= SPLIT
    assert {"two_stage", "lora_d1", "lora_early_stopping"} <= SPLIT - BILEVEL
    assert not {"lora", "dora", "adalora", "pseudo_svd"} & SPLIT


@every_variant
def test_run_moves_what_is_trained_and_nothing_else(name: str, adapted: Adapted, bert_batches: Batches) -> None:
    model = adapted(name)
    base = bits(frozen(model))
    seen, result = train(name, model, bert_batches, ending="keep")
    assert_same(bits(frozen(model)), base)
    for level, before in zip(seen.levels, seen.before, strict=True):
        assert not any(torch.equal(each, before[key]) for key, each in level.named_level_parameters().items())
        assert math.isfinite(level.report.loss)
        assert math.isfinite(level.report.gradient_norm)
    assert bool(result.splits) == (name in SPLIT)


@pytest.mark.parametrize("name", sorted(SPLIT))
def test_retraining_leaves_what_the_upper_level_learned(name: str, adapted: Adapted, bert_batches: Batches) -> None:
    """Its level starts from the values before the run, reads all the rows, and moves; the rest stays bit for bit."""
    model = adapted(name)
    start = {key: each.detach().clone() for key, each in model.named_parameters() if each.requires_grad}
    seen, result = train(name, model, bert_batches, ending="retrain")
    assert result.stages[-1].name == "retrain"
    level, before = seen.levels[-1], seen.before[-1]
    learned = {key: each for key, each in model.named_parameters() if key in start and key not in before}
    for key, each in before.items():
        same_shape = each.shape == start[key].shape
        assert not same_shape or torch.equal(each, start[key])
        assert not torch.equal(dict(model.named_parameters())[key], each)
    if name == "autolora":  # what is left is plain LoRA
        assert all(torch.equal(each, torch.ones_like(each)) for each in learned.values())
    assert level.companion is None or level.companion.learned() == result.learned
    assert len(level.train_data_loader[0].dataset) == len(rows_of(bert_batches))


@every_variant
def test_base_model_is_as_before_under_a_disabled_adapter(
    name: str, adapted: Adapted, make_bert: Callable[[], nn.Module], bert_batches: Batches
) -> None:
    model = adapted(name)
    train(name, model, bert_batches)
    with model.disable_adapter():
        found = logits(model, bert_batches[0])
    assert torch.equal(found, logits(make_bert(), bert_batches[0]))


# PEFT takes AdaLoRA's pruned ranks, which name lora_E, for a pattern of layer names, and warns that they match none.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning")
@every_variant
def test_saved_adapter_gives_the_same_logits(
    name: str, adapted: Adapted, make_bert: Callable[[], nn.Module], bert_batches: Batches, tmp_path: Path
) -> None:
    model = adapted(name)
    untrained = logits(model, bert_batches[0])
    train(name, model, bert_batches)
    expected = logits(model, bert_batches[0])
    model.save_pretrained(str(tmp_path))
    reloaded = PeftModel.from_pretrained(make_bert(), tmp_path)
    torch.testing.assert_close(logits(reloaded, bert_batches[0]), expected, rtol=0, atol=1e-6)
    assert (expected - untrained).abs().max() > 1e-3


@every_variant
def test_one_seed_gives_the_same_parameters(name: str, adapted: Adapted, bert_batches: Batches) -> None:
    """Bit for bit, with the dropout of BERT switched on."""
    first, second = adapted(name), adapted(name)
    train(name, first, bert_batches)
    train(name, second, bert_batches)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@every_variant
def test_loss_falls_when_one_batch_is_learnt_by_heart(name: str, adapted: Adapted, bert_batches: Batches) -> None:
    """Against the loss of the same adapter untrained, in eval mode."""
    model = adapted(name)
    before = model.eval()(**bert_batches[0]).loss.item()
    train(name, model, bert_batches[:1] * 4)
    assert model.eval()(**bert_batches[0]).loss.item() < before


@every_variant
@pytest.mark.parametrize("bad", [{"rank": 0}, {"alpha": -1.0}, {"dropout": 1.0}])
def test_settings_refuse_bad_values(name: str, bad: dict[str, Any]) -> None:
    ((field, value),) = bad.items()
    with pytest.raises(SettingsError, match=f"adapter: {field} is {value}"):
        VARIANTS[name].settings(**bad)


@every_variant
def test_settings_reach_the_adapter(name: str, adapted: Adapted) -> None:
    settings = VARIANTS[name].settings(rank=3, alpha=5.0, dropout=0.25, target_modules=["key"])
    model = adapted(name, settings=settings)
    config = model.peft_config["default"].to_dict()
    rank = config["target_r"] if name == "adalora" else config["r"]
    alpha = config.get("lora_alpha", config.get("alpha"))
    dropout = config.get("lora_dropout", config.get("dropout"))
    assert (rank, alpha, dropout, set(config["target_modules"])) == (3, 5.0, 0.25, {"key"})
