"""The one-level control: all of BiLoRA's parameters, and both of its penalties."""

from collections.abc import Callable

import pytest
from peft import PeftModel
from torch import Tensor

from bilora import binary_entropy_penalty, orthogonality_penalty, trainable_parameters
from bilora.problems import VARIANTS
from bilora.problems.levels.losses import read_loss
from bilora.problems.variants.bilora import BiloraSettings
from bilora.problems.variants.pseudo_svd import PseudoSvd

Adapted = Callable[..., PeftModel]


@pytest.mark.parametrize(("orthogonality", "entropy"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.3, 0.5), (0.3, None)])
def test_loss_has_both_penalties(
    adapted: Adapted, bert_batches: list[dict[str, Tensor]], orthogonality: float, entropy: float | None
) -> None:
    settings = BiloraSettings(rank=4, formulation="binary", orthogonality=orthogonality, binary_entropy=entropy)
    model = adapted("pseudo_svd", settings=settings).eval()
    level = PseudoSvd("lower", None, model, extra_config=settings)
    loss, parts = read_loss(level.training_step(bert_batches[0]), level="lower")
    task = model(**bert_batches[0]).loss.item()
    R1, R2 = orthogonality_penalty(model).item(), binary_entropy_penalty(model).item()
    expected = orthogonality * R1 + (1e-4 if entropy is None else entropy) * R2
    assert R1 > 1
    assert R2 > 1
    assert loss.item() == pytest.approx(task + expected, rel=1e-6)
    assert ("penalty" in parts) == (expected > 0)


def test_no_binary_entropy_where_the_values_have_none(adapted: Adapted) -> None:
    settings = BiloraSettings(rank=4, formulation="real", orthogonality=0.3)
    model = adapted("pseudo_svd", settings=settings)
    penalty = PseudoSvd("lower", None, model, extra_config=settings).penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.3 * orthogonality_penalty(model).item(), rel=1e-6)


def test_trains_everything_that_bilora_trains(adapted: Adapted) -> None:
    level = PseudoSvd("lower", None, adapted("pseudo_svd"))
    assert level.level_parameters().keys() == trainable_parameters(adapted("bilora")).keys()
    assert VARIANTS["pseudo_svd"].adapt is VARIANTS["bilora"].adapt
    assert VARIANTS["pseudo_svd"].settings is VARIANTS["bilora"].settings
