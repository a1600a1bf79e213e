"""Loss and metrics on labelled rows."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilora.data.rows import check_rows
from bilora.metrics.metric import UndefinedMetricWarning
from bilora.tasks.catalog import TASKS
from bilora.tasks.scoring import one_class, predict
from bilora.tasks.task import EncodedRows, Inference
from bilora.tasks.text import task as text_task


class Scorer(nn.Module):
    """Logits from a table by row; notes how it was called."""

    def __init__(self, logits: Tensor, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.dropout = nn.Dropout(dropout)
        self.calls: list[Any] = []

    def forward(self, row: Tensor) -> Any:
        product = self.logits[row] @ torch.eye(self.logits.shape[1])
        self.calls.append((self.training, torch.is_grad_enabled(), product.dtype))
        return SimpleNamespace(logits=self.dropout(product))


def batches(labels: list[Any], *, size: int = 2) -> list[dict[str, Tensor]]:
    rows = torch.arange(len(labels)).split(size)
    return [{"row": part, "labels": torch.tensor([labels[row] for row in part])} for part in rows]


def scored(model: Scorer, name: str, labels: list[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the metrics of rows of one length, two per batch."""
    task = TASKS[name]
    monkeypatch.setattr(text_task, "ordered_loader", lambda encoded, collate: batches(labels))
    encoded: list[dict[str, Any]] = [{"input_ids": [0]}] * len(labels)
    fields = dict.fromkeys(task.text_fields, "a")
    numbered = [(number, {**fields, "label": label}) for number, label in enumerate(labels, start=1)]
    rows = check_rows(numbered, task, source="toy", split="validation")
    return task.validate(Inference(model, None), EncodedRows(rows, encoded)).metrics


@pytest.mark.parametrize("training", [True, False])
def test_predicts_without_dropout_and_gradients_and_leaves_the_mode(training: bool) -> None:
    table = torch.randn(5, 3)
    model = Scorer(table.clone(), dropout=0.5).train(training)
    logits, labels = predict(Inference(model, None), batches([0, 1, 2, 1, 0]))
    assert torch.equal(logits, table)
    assert labels.tolist() == [0, 1, 2, 1, 0]
    assert {call[:2] for call in model.calls} == {(False, False)}
    assert model.training is training


def test_autocast_is_that_of_training_logits_are_float32_and_the_mode_comes_back_when_the_model_raises() -> None:
    model = Scorer(torch.randn(2, 3))
    logits, _ = predict(Inference(model, None, torch.bfloat16), batches([0, 1]))
    assert model.calls[0][2] == torch.bfloat16
    assert logits.dtype == torch.float32
    with pytest.raises(IndexError):
        predict(Inference(model, None), batches([0, 0, 0]))
    assert model.training


def test_loss_is_the_mean_cross_entropy_over_rows_of_batches_of_different_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, labels = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), [0, 1, 0]
    metrics = scored(Scorer(logits), "sst2", labels, monkeypatch)
    expected = -logits.double().log_softmax(-1)[range(3), labels].mean().item()
    assert metrics == {"loss": pytest.approx(expected, rel=1e-12), "accuracy": pytest.approx(1 / 3)}


def test_regression_takes_the_single_output(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = scored(Scorer(torch.tensor([[1.0], [2.0], [4.0]])), "stsb", [1.0, 3.0, 5.0], monkeypatch)
    expected = torch.corrcoef(torch.tensor([[1.0, 2.0, 4.0], [1.0, 3.0, 5.0]]).double())[0, 1].item()
    assert metrics["loss"] == pytest.approx(2 / 3)
    assert metrics["pearson"] == pytest.approx(expected, rel=1e-12)
    assert metrics["spearmanr"] == pytest.approx(1.0)


def test_one_answer_to_all_rows_is_told_where_the_labels_differ() -> None:
    (notice,) = one_class(["no", "no"], ["no", "yes"], of="rows")
    assert notice.startswith("all 2 rows are predicted as 'no', and they are of 2 classes;")
    assert one_class(["no", "yes"], ["no", "yes"], of="rows") == one_class(["no", "no"], ["no"], of="rows") == ()


def test_an_undefined_metric_is_none_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UndefinedMetricWarning):
        metrics = scored(Scorer(torch.tensor([[1.0], [1.0]])), "stsb", [1.0, 2.0], monkeypatch)
    assert (metrics["pearson"], metrics["loss"]) == (None, 0.5)
