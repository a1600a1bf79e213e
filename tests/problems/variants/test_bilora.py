"""BiLoRA's levels: which parameters, which penalties, and what its settings refuse."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from bilora import binary_entropy_penalty, level_parameters, orthogonality_penalty
from bilora.errors import SettingsError
from bilora.problems.levels.losses import read_loss
from bilora.problems.variants.bilora import BiloraLower, BiloraSettings, BiloraUpper

Adapted = Callable[..., PeftModel]
Batches = list[dict[str, Tensor]]


def losses(kind: type[Any], model: PeftModel, settings: BiloraSettings, batch: Any) -> tuple[float, Any]:
    level = kind("level", None, model.eval(), extra_config=settings)
    loss, parts = read_loss(level.training_step(batch), level="level")
    return loss.item(), {name: each.item() for name, each in parts.items()}


def test_parameters_are_those_the_layers_name(adapted: Adapted) -> None:
    model = adapted("bilora")
    lower, upper = BiloraLower("lower", None, model), BiloraUpper("upper", None, model)
    divided = level_parameters(model)
    assert lower.level_parameters().keys() == divided.lower.keys()
    assert upper.level_parameters().keys() == divided.upper.keys()
    # Query and value of two blocks: a vector of 4 values each.
    assert [tuple(each.shape) for each in upper.trainable_parameters()] == [(4,)] * 4
    assert any("classifier" in name for name in lower.level_parameters())


@pytest.mark.parametrize("weight", [0.1, 0.7])
def test_lower_loss_has_the_orthogonality_penalty(adapted: Adapted, bert_batches: Batches, weight: float) -> None:
    settings = BiloraSettings(rank=4, normalized=False, orthogonality=weight)
    model = adapted("bilora", settings=settings).eval()
    task = model(**bert_batches[0]).loss.item()
    penalty = weight * orthogonality_penalty(model).item()
    loss, parts = losses(BiloraLower, model, settings, bert_batches[0])
    assert loss == pytest.approx(task + penalty, rel=1e-6)
    assert parts == pytest.approx({"task_loss": task, "penalty": penalty}, rel=1e-6)
    assert penalty > 0.1


@pytest.mark.parametrize(("given", "weight"), [(None, 1e-4), (0.5, 0.5)])
def test_upper_loss_has_the_binary_entropy(
    adapted: Adapted, bert_batches: Batches, given: float | None, weight: float
) -> None:
    """None takes the formulation's own weight."""
    settings = BiloraSettings(rank=4, formulation="binary", binary_entropy=given)
    model = adapted("bilora", settings=settings).eval()
    task = model(**bert_batches[0]).loss.item()
    _, parts = losses(BiloraUpper, model, settings, bert_batches[0])
    assert parts["penalty"] == pytest.approx(weight * 4 * math.log(2), rel=1e-6)  # every s starts at 1/2
    assert parts["penalty"] == pytest.approx(weight * binary_entropy_penalty(model).item(), rel=1e-6)
    assert parts["task_loss"] == pytest.approx(task, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (BiloraLower, BiloraSettings(rank=4, orthogonality=0.0)),
        (BiloraUpper, BiloraSettings(rank=4)),
        (BiloraUpper, BiloraSettings(rank=4, formulation="binary", binary_entropy=0.0)),
    ],
)
def test_weight_of_zero_is_no_penalty(
    adapted: Adapted, bert_batches: Batches, kind: type[Any], settings: BiloraSettings
) -> None:
    model = adapted("bilora", settings=settings).eval()
    loss, parts = losses(kind, model, settings, bert_batches[0])
    assert loss == model(**bert_batches[0]).loss.item()
    assert parts == {}


@pytest.mark.parametrize("formulation", ["real", "softmax", "softmax_sum_one", "binary"])
@pytest.mark.parametrize("normalized", [False, True])
def test_settings_reach_the_adapter(adapted: Adapted, formulation: str, normalized: bool) -> None:
    if normalized and formulation.startswith("softmax"):
        with pytest.raises(SettingsError, match="only a small s starts near the base model"):
            adapted("bilora", settings=BiloraSettings(formulation=formulation, normalized=True))
        return
    start = 0.01 if normalized else None
    settings = BiloraSettings(formulation=formulation, normalized=normalized, start_value=start)
    config: Any = adapted("bilora", settings=settings).peft_config["default"]
    assert (config.formulation, config.normalized, config.start_value) == (formulation, normalized, start)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"orthogonality": -0.1}, "orthogonality is -0.1, it must not be negative"),
        ({"orthogonality": math.nan}, "orthogonality is nan, it must not be negative"),
        (
            {"formulation": "softmax", "binary_entropy": 0.1},
            "binary_entropy is 0.1, but the values of formulation 'softmax'",
        ),
        ({"formulation": "binary", "binary_entropy": -1.0}, "binary_entropy is -1.0, it must not be neg"),
        ({"formulation": "binary", "binary_entropy": math.nan}, "binary_entropy is nan, it must not be"),
        ({"formulation": "sofmax"}, "formulation 'sofmax' is unknown.*Did you mean 'softmax'"),
        ({"rank": 0, "orthogonality": -1}, "rank is 0, .*; orthogonality is -1"),
    ],
)
def test_settings_refuse(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        BiloraSettings(**bad)


def test_penalties_reach_only_their_own_level(adapted: Adapted) -> None:
    """R1 has no gradient in E, and R2 none in P, Q or the head."""
    settings = BiloraSettings(rank=4, formulation="binary", orthogonality=1.0, binary_entropy=1.0)
    model = adapted("bilora", settings=settings)
    divided = level_parameters(model)
    with torch.no_grad():  # at s = 1/2 the entropy is flat
        for each in divided.upper.values():
            each.add_(1.0)
    for kind, own, other in ((BiloraLower, divided.lower, divided.upper), (BiloraUpper, divided.upper, divided.lower)):
        penalty = kind("level", None, model, extra_config=settings).penalty()
        assert penalty is not None
        inside = torch.autograd.grad(penalty, list(own.values()), allow_unused=True, retain_graph=True)
        outside = torch.autograd.grad(penalty, list(other.values()), allow_unused=True)
        assert any(each is not None and each.abs().max() > 0 for each in inside)
        assert all(each is None or each.abs().max() == 0 for each in outside)
