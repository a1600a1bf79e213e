"""What every row of the table of variants must do, on a tiny BERT with its adapter, and on two causal models."""

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
from bilora.tasks.generation.batches import PairCollator

Adapted = Callable[..., PeftModel]
Batches = list[dict[str, Tensor]]
Rows = list[dict[str, Any]]
DECAYS = ("learned_decay", "learned_decay_bilora")

BILEVEL = {name for name, variant in VARIANTS.items() if variant.upper is not None}
"""Methods with two levels in one stage."""

SHAPED = {name for name, variant in VARIANTS.items() if variant.own_loss}
"""Methods whose lower loss is their own."""

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
            self.before.append({key: value.detach().clone() for key, value in level.named_level_parameters().items()})


def stack(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}


@pytest.fixture
def rows(bert_batches: Batches) -> Rows:
    """The rows of the batches, with labels as numbers, as a data set has them."""
    return [
        {key: int(value[index]) if key == "labels" else value[index] for key, value in batch.items()}
        for batch in bert_batches
        for index in range(len(batch["labels"]))
    ]


def pairs() -> Rows:
    """Pairs of two groups of inputs, of different lengths, each with an end and a masked prompt."""
    generator = torch.Generator().manual_seed(5)
    texts = [[*torch.randint(1, 64, (5 + group % 4,), generator=generator).tolist(), 0] for group in range(12)]
    return [{"input_ids": ids, "labels": [-100, -100, *ids[2:]], "group": group} for group, ids in enumerate(texts)]


def train(
    name: str, model: PeftModel, rows: Rows, *, collate: Any = stack, **settings: Any
) -> tuple[Levels, FitResult]:
    """Train by the one road there is, with the variant's own stages and ending."""
    seen = Levels()
    if "sources" in VARIANTS[name].row_marks:
        rows = [{**row, "source": "ab"[index % 2]} for index, row in enumerate(rows)]
    below, above = (LevelSettings(learning_rate=rate, batch_size=2) for rate in (1e-2, 1e-1))
    result = fit(
        model,
        rows,
        collate=collate,
        variant=name,
        variant_settings=VARIANTS[name].settings(rank=4),
        settings=FitSettings(
            unroll_steps=2, device="cpu", steps=8, split_ratio=0.5, lower=below, upper=above, **settings
        ),
        callbacks=[seen],
    )
    return seen, result


def frozen_bits(model: PeftModel) -> dict[str, Tensor]:
    frozen = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    return {name: value.contiguous().view(torch.uint8).clone() for name, value in frozen.items()}


@every_variant
def test_levels_divide_the_trainable_parameters(name: str, adapted: Adapted, rows: Rows) -> None:
    """In a stage each belongs to one level at most, over the stages each to one, and none to a level that is not."""
    model = adapted(name)
    seen, result = train(name, model, rows, ending="keep")
    companion = seen.levels[0].companion
    named = dict(model.named_parameters()) | ({} if companion is None else dict(companion.named_parameters()))
    assert len(result.stages) == (2 if name == "two_stage" else 1)
    held = [id(value) for level in seen.levels for value in level.trainable_parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(value) for value in named.values() if value.requires_grad}
    for level in seen.levels:
        assert all(named[key] is value for key, value in level.named_level_parameters().items())


def test_which_methods_have_two_levels_and_which_divide_the_rows() -> None:
    assert {*DECAYS, "self_tuned", "bilora", "autolora", "bidora", "alternating"} <= BILEVEL <= SPLIT
    assert {"two_stage", "lora_d1", "lora_early_stopping"} <= SPLIT - BILEVEL
    assert not {"lora", "dora", "adalora", "pseudo_svd"} & SPLIT


@every_variant
def test_run_moves_what_is_trained_and_nothing_else(name: str, adapted: Adapted, rows: Rows) -> None:
    model = adapted(name)
    base = frozen_bits(model)
    seen, result = train(name, model, rows, ending="keep")
    assert_same(frozen_bits(model), base)
    for level, before in zip(seen.levels, seen.before, strict=True):
        assert not any(torch.equal(value, before[key]) for key, value in level.named_level_parameters().items())
        assert math.isfinite(level.report.loss)
        assert math.isfinite(level.report.gradient_norm)
    assert bool(result.splits) == (name in SPLIT)


@pytest.mark.parametrize("name", sorted(SPLIT))
def test_retraining_leaves_what_the_upper_level_learned(name: str, adapted: Adapted, rows: Rows) -> None:
    """Its level starts from the values before the run, reads all the rows, and moves; the rest stays bit for bit."""
    model = adapted(name)
    start = {key: value.detach().clone() for key, value in model.named_parameters() if value.requires_grad}
    seen, result = train(name, model, rows, ending="retrain")
    assert result.stages[-1].name == "retrain"
    level, before = seen.levels[-1], seen.before[-1]
    learned = {key: value for key, value in model.named_parameters() if key in start and key not in before}
    for key, value in before.items():
        assert value.shape != start[key].shape or torch.equal(value, start[key])
        assert not torch.equal(dict(model.named_parameters())[key], value)
    if name == "autolora":  # what is left is plain LoRA
        assert all(torch.equal(value, torch.ones_like(value)) for value in learned.values())
    assert level.companion is None or level.companion.learned() == result.learned
    assert len(level.train_data_loader[0].dataset) == len(rows)


# PEFT takes AdaLoRA's pruned ranks, which name lora_E, for a pattern of layer names, and warns that they match none.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")  # PEFT tells a layer of GPT-2
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@every_variant
def test_trained_twice_alike_saved_and_loaded_over_a_base_that_stayed(
    name: str, kind: str, adapted: Adapted, make_base: Callable[[str], nn.Module], rows: Rows, tmp_path: Path
) -> None:
    """With dropout switched on; the causal models have Conv1D layers, rotary positions, and masked prompts."""
    rows, collate = (rows, stack) if kind == "bert" else (pairs(), PairCollator(0))
    if name in SHAPED and kind != "bert":
        with pytest.raises(SettingsError, match=f"method '{name}' needs one class per row; it trains no .* generation"):
            train(name, adapted(name, kind=kind), rows, collate=collate)
        return
    if name == "correction_then_trusted" and kind != "bert":
        with pytest.raises(SettingsError, match="rows that have one class each, and these have not"):
            train(name, adapted(name, kind=kind), rows, collate=collate)
        return

    @torch.no_grad()
    def logits(model: nn.Module) -> Tensor:
        batch = collate(rows[:4])
        # Without labels: PEFT's AdaLoRA, loaded for inference, cannot add its regularizer to a loss.
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # type: ignore[no-any-return]

    model, again = adapted(name, kind=kind), adapted(name, kind=kind)
    for trained in (model, again):
        train(name, trained, rows, collate=collate)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    expected, untouched = logits(model), logits(make_base(kind))
    assert (expected - untouched).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), untouched)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(make_base(kind), tmp_path)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-6 if kind == "bert" else 5e-6)


@every_variant
def test_loss_falls_when_one_batch_is_learnt_by_heart(
    name: str, adapted: Adapted, bert_batches: Batches, rows: Rows
) -> None:
    """Against the loss of the same adapter untrained, in eval mode."""
    model = adapted(name)
    before = model.eval()(**bert_batches[0]).loss.item()
    train(name, model, rows[:4] * 4)
    assert model.eval()(**bert_batches[0]).loss.item() < before


@every_variant
def test_settings_reach_the_adapter(name: str, adapted: Adapted) -> None:
    settings = VARIANTS[name].settings(rank=3, alpha=5.0, dropout=0.25, target_modules=["key"])
    config = adapted(name, settings=settings).peft_config["default"].to_dict()
    rank = config["target_r"] if name == "adalora" else config["r"]
    alpha = config.get("lora_alpha", config.get("alpha"))
    dropout = config.get("lora_dropout", config.get("dropout"))
    assert (rank, alpha, dropout, set(config["target_modules"])) == (3, 5.0, 0.25, {"key"})


@every_variant
@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("rank", 0, "it must be at least 1"),
        *[("alpha", value, "it must be positive") for value in (0.0, -1.0, math.inf, math.nan)],
        *[("dropout", value, r"it must be in \[0, 1\)") for value in (-0.1, 1.0, math.nan)],
    ],
)
def test_settings_of_every_adapter_refuse(name: str, field: str, value: Any, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"adapter: {field} is {value}, {allowed}"):
        VARIANTS[name].settings(**{field: value})


@pytest.mark.parametrize(
    ("name", "bad", "match"),
    [
        ("bilora", {"orthogonality": -0.1}, "orthogonality is -0.1, it must not be negative"),
        ("bilora", {"orthogonality": math.nan}, "orthogonality is nan, it must not be negative"),
        ("bilora", {"formulation": "softmax", "binary_entropy": 0.1}, "0.1, but the values of formulation 'softmax'"),
        ("bilora", {"formulation": "binary", "binary_entropy": -1.0}, "binary_entropy is -1.0, it must not be neg"),
        ("bilora", {"formulation": "binary", "binary_entropy": math.nan}, "binary_entropy is nan, it must not be"),
        ("bilora", {"formulation": "sofmax"}, "formulation 'sofmax' is unknown.*Did you mean 'softmax'"),
        ("bilora", {"rank": 0, "orthogonality": -1}, "rank is 0, .*; orthogonality is -1"),
        ("adalora", {"rank": 4, "initial_rank": 3}, "initial_rank is 3, it must not be below rank 4"),
        ("adalora", {"initial_rank": 0}, "initial_rank is 0"),
        ("adalora", {"orthogonality": -0.1}, "orthogonality is -0.1, it must not be negative"),
        ("adalora", {"orthogonality": math.nan}, "orthogonality is nan"),
        ("adalora", {"warmup": -0.1}, "warmup -0.1 and final 0.3 must not be negative"),
        ("adalora", {"final": -0.1}, "final -0.1 must not be negative"),
        ("adalora", {"warmup": math.nan}, "warmup nan"),
        ("adalora", {"warmup": 0.5, "final": 0.5}, "must sum to below 1"),
        ("autolora", {"rank": 1}, "adapter: rank is 1, it must be at least 2"),
        ("bidora", {"gram": -1.0}, "adapter: gram is -1.0, it must not be negative"),
        *[(name, {"decay_start": 0.0}, "is 0.0 and decay_cap 50.0; they must be positive") for name in DECAYS],
        *[(name, {"decay_start": 60.0}, "the start must not be above the cap") for name in DECAYS],
        *[(name, {"decay_cap": math.inf}, "decay_cap inf") for name in DECAYS],
        *[(name, {"decay_learning_rate": -1.0}, "rate is -1.0, it must not be negative") for name in DECAYS],
    ],
)
def test_settings_of_one_method_refuse(name: str, bad: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        VARIANTS[name].settings(**bad)
