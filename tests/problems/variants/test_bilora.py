"""BiLoRA's levels, its controls' and AutoLoRA's: which parameters, which penalties, which update."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel

from bilora import binary_entropy_penalty, level_parameters, orthogonality_penalty, trainable_parameters
from bilora.adapter.spectrum import adapted_layers
from bilora.errors import SettingsError
from bilora.problems import VARIANTS
from bilora.problems.levels.losses import read_loss
from bilora.problems.variants.autolora import AutoloraSettings
from bilora.problems.variants.bilora import BiloraLower, BiloraSettings, BiloraUpper
from bilora.problems.variants.pseudo_svd import PseudoSvd
from bilora.problems.variants.two_stage import ValuesAlone

Adapted = Callable[..., PeftModel]


def test_parameters_are_those_the_layers_name(adapted: Adapted) -> None:
    model = adapted("bilora")
    lower, upper = BiloraLower("lower", None, model), BiloraUpper("upper", None, model)
    divided = level_parameters(model)
    assert lower.level_parameters().keys() == divided.lower.keys()
    assert upper.level_parameters().keys() == divided.upper.keys()
    # Query and value of two blocks: a vector of 4 values each.
    assert [tuple(values.shape) for values in upper.trainable_parameters()] == [(4,)] * 4
    assert any("classifier" in name for name in lower.level_parameters())


def test_one_level_trains_everything_that_bilora_trains(adapted: Adapted) -> None:
    level = PseudoSvd("lower", None, adapted("pseudo_svd"))
    assert level.level_parameters().keys() == trainable_parameters(adapted("bilora")).keys()
    assert VARIANTS["pseudo_svd"].adapt is VARIANTS["bilora"].adapt
    assert VARIANTS["pseudo_svd"].settings is VARIANTS["bilora"].settings


@pytest.mark.parametrize(
    ("kind", "formulation", "given", "weights"),
    [
        (BiloraLower, "real", (0.1, None), (0.1, 0.0)),
        (BiloraLower, "binary", (0.7, 0.5), (0.7, 0.0)),
        (BiloraLower, "real", (0.0, None), (0.0, 0.0)),
        (BiloraUpper, "binary", (0.1, None), (0.0, 1e-4)),  # None takes the formulation's own weight
        (BiloraUpper, "binary", (0.1, 0.5), (0.0, 0.5)),
        (BiloraUpper, "binary", (0.1, 0.0), (0.0, 0.0)),
        (BiloraUpper, "real", (0.1, None), (0.0, 0.0)),
        (ValuesAlone, "binary", (0.1, 0.5), (0.0, 0.5)),
        (PseudoSvd, "binary", (0.0, 0.0), (0.0, 0.0)),
        (PseudoSvd, "binary", (0.3, 0.0), (0.3, 0.0)),
        (PseudoSvd, "binary", (0.0, 0.5), (0.0, 0.5)),
        (PseudoSvd, "binary", (0.3, 0.5), (0.3, 0.5)),
        (PseudoSvd, "binary", (0.3, None), (0.3, 1e-4)),
        (PseudoSvd, "real", (0.3, None), (0.3, 0.0)),
    ],
)
def test_loss_has_the_penalties_of_its_level(
    adapted: Adapted, bert_batches: Any, kind: type[Any], formulation: str, given: Any, weights: tuple[float, float]
) -> None:
    """gamma1 R1 + gamma2 R2 beside the loss of the task, and nothing at all where both weights are zero."""
    settings = BiloraSettings(
        rank=4, formulation=formulation, normalized=False, orthogonality=given[0], binary_entropy=given[1]
    )
    model = adapted("bilora", settings=settings).eval()
    level = kind("level", None, model, extra_config=settings)
    loss, parts = read_loss(level.training_step(bert_batches[0]), level="level")
    task, R1 = model(**bert_batches[0]).loss.item(), orthogonality_penalty(model).item()
    assert R1 > 1
    penalty = weights[0] * R1
    if formulation == "binary":
        assert binary_entropy_penalty(model).item() == pytest.approx(4 * math.log(2))  # every s starts at 1/2
        penalty += weights[1] * 4 * math.log(2)
    assert loss.item() == (pytest.approx(task + penalty, rel=1e-6) if penalty else task)
    expected = {"task_loss": task, "penalty": penalty} if penalty else {}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-6)


def test_penalties_reach_only_their_own_level(adapted: Adapted) -> None:
    """R1 has no gradient in E, and R2 none in P, Q or the head."""
    settings = BiloraSettings(rank=4, formulation="binary", orthogonality=1.0, binary_entropy=1.0)
    model = adapted("bilora", settings=settings)
    divided = level_parameters(model)
    lower, upper = list(divided.lower.values()), list(divided.upper.values())
    with torch.no_grad():  # at s = 1/2 the entropy is flat
        for values in upper:
            values.add_(1.0)
    for kind, own, other in ((BiloraLower, lower, upper), (BiloraUpper, upper, lower)):
        penalty = kind("level", None, model, extra_config=settings).penalty()
        assert penalty is not None
        inside = torch.autograd.grad(penalty, own, allow_unused=True, retain_graph=True)
        outside = torch.autograd.grad(penalty, other, allow_unused=True)
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in inside)
        assert all(gradient is None or gradient.abs().max() == 0 for gradient in outside)


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


def test_autoloras_update_is_a_weighted_sum_of_rank_one_terms_without_a_penalty(adapted: Adapted) -> None:
    variant, settings = VARIANTS["autolora"], AutoloraSettings(rank=4, alpha=6.0)
    model = adapted("autolora", settings=settings)
    assert variant.cut is not None and variant.upper is not None
    assert set(variant.cut.choose(model)[0].values()) == {(0, 1, 2, 3)}  # untrained weights are all kept
    for kind in (variant.lower, variant.upper):
        assert kind("level", None, model, extra_config=settings).penalty() is None
    for layer in adapted_layers(model, "default").values():
        P, E, Q = (values["default"] for values in (layer.bilora_P, layer.bilora_E, layer.bilora_Q))
        with torch.no_grad():
            P.normal_()
            E.normal_()
        terms = [weight * torch.outer(P[:, j], Q[j]) for j, weight in enumerate(torch.softmax(E, dim=0))]
        torch.testing.assert_close(layer.get_delta_weight("default"), 6.0 / 4 * torch.stack(terms).sum(0))
