"""What every row of the table of variants must do, on a tiny BERT with its adapter."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from betty.configs import Config
from peft import PeftModel
from torch import Tensor, nn

from bilora.engines.bilevel import BilevelEngine
from bilora.errors import SettingsError
from bilora.problems import VARIANTS, Level, LowerProblem, UpperProblem

Adapted = Callable[..., PeftModel]
Batches = list[dict[str, Tensor]]
Digest = Callable[[Sequence[Tensor]], str]
STEPS = 6

every_variant = pytest.mark.parametrize("name", VARIANTS)


def build(name: str, model: PeftModel, batches: Batches) -> tuple[LowerProblem, UpperProblem | None]:
    variant = VARIANTS[name]
    settings = variant.settings(rank=4)

    def level(kind: type[Any], level_name: str, config: Config, rate: float) -> Any:
        made = kind(level_name, config, model, train_data_loader=batches, extra_config=settings)
        made.optimizer = torch.optim.AdamW(made.trainable_parameters(), lr=rate)
        return made

    lower = level(variant.lower, "lower", Config(unroll_steps=2), 1e-2)
    return lower, None if variant.upper is None else level(variant.upper, "upper", Config(), 1e-1)


def train(name: str, model: PeftModel, batches: Batches) -> list[Level]:
    torch.manual_seed(0)
    lower, upper = build(name, model, batches)
    BilevelEngine(lower, upper, steps=STEPS, device="cpu").run()
    return [lower] if upper is None else [lower, upper]


def frozen(model: PeftModel) -> dict[str, Tensor]:
    return {name: each for name, each in model.named_parameters() if not each.requires_grad}


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    # Without labels: PEFT's AdaLoRA, loaded for inference, cannot add its regularizer to a loss.
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    found: Tensor = model.eval()(**inputs).logits
    return found


@every_variant
def test_levels_divide_the_trainable_parameters(name: str, adapted: Adapted, bert_batches: Batches) -> None:
    model = adapted(name)
    levels = [level for level in build(name, model, bert_batches) if level is not None]
    held = [id(each) for level in levels for each in level.trainable_parameters()]
    trainable = {id(each) for each in model.parameters() if each.requires_grad}
    assert len(held) == len(set(held))
    assert set(held) == trainable
    named = dict(model.named_parameters())
    for level in levels:
        assert all(named[key] is each for key, each in level.named_level_parameters().items())


@every_variant
def test_name_and_number_of_levels(name: str) -> None:
    variant = VARIANTS[name]
    assert variant.name == name
    assert (variant.upper is not None) == (name == "bilora")


@every_variant
def test_run_moves_what_is_trained_and_nothing_else(
    name: str, adapted: Adapted, bert_batches: Batches, digest: Digest
) -> None:
    model = adapted(name)
    base, before = digest(list(frozen(model).values())), copy.deepcopy(dict(model.named_parameters()))
    levels = train(name, model, bert_batches)
    assert digest(list(frozen(model).values())) == base
    for level in levels:
        moved = [not torch.equal(each, before[key]) for key, each in level.named_level_parameters().items()]
        assert all(moved)
        assert math.isfinite(level.report.loss)
        assert math.isfinite(level.report.gradient_norm)


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
    train(name, model, bert_batches[:1])
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
