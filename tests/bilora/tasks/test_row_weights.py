"""The loss of weighted rows against the weighted mean of the rows' losses."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bilora.errors import SettingsError
from bilora.tasks.row_weights import row_weighted_loss, weight_sum
from bilora.tasks.text.task import TextTask

TASK = TextTask("toy", ("text",), ("no", "yes"))
LOGITS, LABELS = torch.tensor([[1.0, -1.0], [0.5, 2.0], [0.0, 0.3]]), torch.tensor([0, 1, 0])


class Model(nn.Module):
    def forward(self, labels: Tensor) -> Any:
        # As a method that adds a penalty of its own.
        return SimpleNamespace(logits=LOGITS, loss=functional.cross_entropy(LOGITS, labels) + 0.25)


def test_rows_count_by_their_weight() -> None:
    weights = torch.tensor([2.0, 0.0, 0.5])
    batch = {"labels": LABELS, "weights": weights, "row_ids": torch.arange(3)}
    losses = functional.cross_entropy(LOGITS, LABELS, reduction="none")
    expected = (2.0 * losses[0] + 0.5 * losses[2]) / 2.5 + 0.25
    torch.testing.assert_close(row_weighted_loss(TASK, None)(Model(), batch).loss, expected)
    assert float(weight_sum(weights, LABELS, None)) == 2.5
    assert set(batch) == {"labels", "weights", "row_ids"}


def test_equal_weights_change_nothing() -> None:
    batch = {"labels": LABELS, "weights": torch.ones(3)}
    torch.testing.assert_close(row_weighted_loss(TASK, None)(Model(), batch).loss, Model()(LABELS).loss)


def test_a_batch_without_weight_has_no_loss() -> None:
    batch = {"labels": LABELS, "weights": torch.zeros(3)}
    torch.testing.assert_close(row_weighted_loss(TASK, None)(Model(), batch).loss, torch.tensor(0.25))


def test_rows_of_numbers_are_refused() -> None:
    with pytest.raises(SettingsError, match="weight_column weighs rows of one class each, and those of task 'n'"):
        row_weighted_loss(TextTask("n", ("text",), None, metric="pearson"), None)
