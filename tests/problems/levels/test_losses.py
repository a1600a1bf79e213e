"""Whatever a training step returns: a scalar with its graph, and the parts worth logging without theirs."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput

from bilora.errors import SettingsError
from bilora.problems.levels.losses import read_loss


def loss() -> Tensor:
    return torch.tensor(3.0, requires_grad=True) * 2


@pytest.mark.parametrize(
    "output",
    [
        loss(),
        {"loss": loss()},
        SequenceClassifierOutput(loss=loss(), logits=torch.ones(4, 2)),
        loss().reshape(1),
        {"loss": loss().reshape(1, 1)},
    ],
)
def test_loss_keeps_its_graph(output: Any) -> None:
    scalar, parts = read_loss(output, level="lower")
    assert scalar.shape == ()
    assert scalar.item() == 6.0
    assert scalar.requires_grad
    assert parts == {}


def test_parts_are_the_other_single_numbers() -> None:
    output = {"loss": loss(), "penalty": loss(), "one": torch.ones(1, 1), "many": torch.ones(2), "text": "a"}
    _, parts = read_loss(output, level="lower")
    assert {name: part.item() for name, part in parts.items()} == {"penalty": 6.0, "one": 1.0}
    assert all(part.shape == () and not part.requires_grad for part in parts.values())


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (None, "NoneType"),
        (1.5, "float"),
        ({"los": loss()}, "dict"),
        ({"loss": 1.5}, "dict"),
        (SequenceClassifierOutput(logits=torch.ones(4, 2)), "SequenceClassifierOutput"),
    ],
)
def test_missing_loss(output: Any, kind: str) -> None:
    with pytest.raises(SettingsError, match=f"of level 'upper' returned {kind} without a loss.*'labels'"):
        read_loss(output, level="upper")


def test_loss_with_more_than_one_number() -> None:
    with pytest.raises(SettingsError, match=r"loss of level 'lower' has shape \(4,\).*\.mean\(\)"):
        read_loss({"loss": torch.ones(4)}, level="lower")
