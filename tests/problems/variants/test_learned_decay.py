"""The two methods with learned decays: what their levels hold, and how they go with values and hypergradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from betty.configs import Config
from peft import PeftModel
from torch import nn

from bilora.data.row_marks import TrainingRows
from bilora.engines.bilevel import BilevelEngine
from bilora.engines.hypergradients.catalog import HYPERGRADIENTS
from bilora.errors import SettingsError
from bilora.problems import VARIANTS, LowerProblem, Needs
from bilora.problems.variants.bilora import BiloraUpper
from bilora.problems.variants.learned_decay import DecayedLower, DecayUpper
from bilora.problems.variants.learned_decay_bilora import (
    DecayBiloraUpper,
    DecayedBiloraLower,
    LearnedDecayBiloraSettings,
    companion,
)
from bilora.problems.variants.weight_decays import WeightDecays

Adapted = Callable[..., PeftModel]


@pytest.mark.parametrize(("name", "values"), [("learned_decay", 0), ("learned_decay_bilora", 4)])
def test_what_the_upper_level_learns(adapted: Adapted, name: str, values: int) -> None:
    """A decay for each of P and Q, or A and B, of four layers, and for weight and bias of the head."""
    variant = VARIANTS[name]
    settings = variant.settings(rank=4)
    model = adapted(name)
    assert variant.upper is not None
    assert variant.companion is not None
    upper: Any = variant.upper("upper", Config(), model, extra_config=settings)
    upper.companion = variant.companion(model, settings, TrainingRows(count=8))
    *others, log_decay = upper.named_level_parameters()
    assert (len(others), log_decay) == (values, "log_decay")
    assert upper.companion.log_decay.shape == (2 * 4 + 2,)
    groups = upper.optimizer_groups()
    assert (groups[-1]["lr"], groups[-1]["weight_decay"]) == (settings.decay_learning_rate, 0.0)
    assert sum(len(group["params"]) for group in groups) == values + 1


def test_a_lora_above_pays_no_pass(stub: Any) -> None:
    """What the decays need is the last step's parameters; nothing is replayed for them."""
    upper = DecayUpper("upper", Config(), nn.Linear(2, 2))
    upper.companion = WeightDecays(["weight", "bias"], start=0.1, cap=50.0)
    upper.hypergradient = stub()
    assert upper.needs == Needs(steps=1, parameters_before=True)
    assert VARIANTS["learned_decay"].hypergradient == "first_order"


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_values_and_decays_under_every_hypergradient(adapted: Adapted, bert_batches: Any, name: str) -> None:
    """The values get the hypergradient's term as it is, and the decays their own: the loss does not hold them."""
    terms: list[Any] = []

    class Both(DecayBiloraUpper):
        def implicit_term(self, vector: Any, lower: LowerProblem) -> Any:
            # A second time: an approximation changes nothing.
            terms.append((BiloraUpper.implicit_term(self, vector, lower), super().implicit_term(vector, lower)))
            return terms[-1][1]

    settings = LearnedDecayBiloraSettings(rank=4)
    model = adapted("learned_decay_bilora")
    with torch.no_grad():
        # Away from a start at which the update is zero, and values or vectors have no influence yet.
        for key, parameter in model.named_parameters():
            if "bilora_" in key:
                parameter.normal_(std=0.3)
    lower = DecayedBiloraLower("lower", Config(unroll_steps=2), model, extra_config=settings)
    upper = Both("upper", Config(), model, extra_config=settings)
    lower.companion = upper.companion = companion(model, settings, TrainingRows(count=8))
    for level in (lower, upper):
        level.optimizer = torch.optim.AdamW(level.optimizer_groups(), lr=1e-3)
        level.train_data_loader = bert_batches
    BilevelEngine(lower, upper, steps=2, hypergradient=name, device="cpu").run()
    ((alone, together),) = terms
    assert all(torch.equal(a, b) for a, b in zip(alone[:-1], together[:-1], strict=True))
    assert any(term.abs().max() > 0 for term in alone[:-1]) == (name != "first_order")
    assert torch.equal(alone[-1], torch.zeros_like(alone[-1]))
    assert (together[-1] != 0).sum() == 10


@pytest.mark.parametrize(
    ("tensors", "grouped", "match"),
    [
        (["weight", "bias"], False, "one param group for each of the level's parameters"),
        (["weight"], True, "the decays of level 'lower' are not those of the level's parameters"),
    ],
)
def test_levels_that_the_decays_do_not_fit(tensors: list[str], grouped: bool, match: str) -> None:
    lower = DecayedLower("lower", Config(), nn.Linear(2, 2))
    lower.companion = WeightDecays(tensors, start=0.1, cap=1.0)
    groups = lower.optimizer_groups() if grouped else lower.trainable_parameters()
    lower.optimizer = torch.optim.SGD(groups, lr=0.1)
    with pytest.raises(SettingsError, match=match):
        lower.patch_optimizer()


def test_a_level_without_its_companion() -> None:
    with pytest.raises(SettingsError, match="level 'upper' learns weight decays; set its companion"):
        DecayUpper("upper", Config(), nn.Linear(2, 2)).trainable_parameters()
