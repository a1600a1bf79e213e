from typing import Any

import numpy
import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from bilora.errors import SettingsError
from bilora.tasks import Task
from bilora.tasks.class_weights import check_class_weights, resolve_class_weights, weigh_classes

SIZES: dict[str, Any] = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 8, "initializer_range": 0.5}
WEIGHTS = (0.5, 2.0, 7.0)
LOSS = Task("toy", ("text",), ("a", "b", "c")).loss


@pytest.fixture
def batch() -> dict[str, Tensor]:
    ids = torch.randint(3, 60, (6, 5), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": torch.tensor([0, 1, 2, 0, 0, 1])}


def model_of(kind: Any) -> Any:
    torch.manual_seed(0)
    return kind(BertConfig(**SIZES, num_labels=3)).eval()


def by_hand(logits: Tensor, labels: Tensor) -> float:
    """The weighted mean of minus the log probabilities, label by label."""
    pairs = [(row, int(label)) for row, label in zip(logits.double(), labels, strict=True) if label != -100]
    losses = [-row.log_softmax(-1)[label].item() * WEIGHTS[label] for row, label in pairs]
    return sum(losses) / sum(WEIGHTS[label] for _, label in pairs)


def test_auto_is_what_scikit_learn_calls_balanced_others_by_name() -> None:
    labels = numpy.array([0] * 90 + [1] * 7 + [2] * 3)
    expected = compute_class_weight("balanced", classes=numpy.arange(3), y=labels)
    assert resolve_class_weights("auto", {"a": 90, "b": 7, "c": 3}) == pytest.approx(expected.tolist(), rel=1e-12)
    assert resolve_class_weights({"b": 3}, {"a": 1, "b": 1, "c": 0}) == (1.0, 3, 1.0)
    assert resolve_class_weights("none", {"a": 1, "b": 1}) is None


def test_classes_that_are_not_there_and_weights_that_are_not_positive() -> None:
    unknown = r"class_weights names 'spma', which is no class; known: ham, spam\. Did you mean 'spam'\?"
    with pytest.raises(SettingsError, match=unknown):
        resolve_class_weights({"spma": 2.0}, {"ham": 0, "spam": 3})
    with pytest.raises(SettingsError, match="no training row has the class 'ham'"):
        resolve_class_weights("auto", {"ham": 0, "spam": 3})
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        text = f"class_weights: the weight of 'a' is {weight}, it must be positive"
        assert check_class_weights({"a": weight, "b": 1.0}) == [text]


def test_the_loss_of_rows(batch: dict[str, Tensor]) -> None:
    model = model_of(BertForSequenceClassification)
    before = model(**batch)
    handle = weigh_classes(model, LOSS, WEIGHTS)
    assert model(input_ids=batch["input_ids"]).loss is None, "without labels nothing is done"
    output = model(**batch)
    assert output.loss.item() == pytest.approx(by_hand(before.logits, batch["labels"]), rel=1e-6)
    assert output["loss"] is output.loss
    assert torch.equal(output.logits, before.logits)
    assert output.loss.item() != pytest.approx(before.loss.item(), rel=0.01)
    handle.remove()
    assert model(**batch).loss.item() == before.loss.item()


def test_loss_and_gradients_of_tokens(batch: dict[str, Tensor]) -> None:
    model = model_of(BertForTokenClassification)
    parameters = list(model.parameters())
    labels = torch.tensor([[-100, 0, 1, 2, -100]] * 6)
    logits = model(**batch | {"labels": labels}).logits.flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, labels.flatten(), weight=torch.tensor(WEIGHTS))
    weigh_classes(model, LOSS, WEIGHTS)
    loss = model(**batch | {"labels": labels}).loss
    assert loss.item() == pytest.approx(by_hand(logits, labels.flatten()), rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters))


def test_what_a_method_has_added_to_the_loss_stays(batch: dict[str, Tensor]) -> None:
    """AdaLoRA's forward adds its regularizer, and calls the base model in a way that passes its hooks by."""
    config = AdaLoraConfig(task_type="SEQ_CLS", total_step=4, init_r=4, target_r=2, orth_reg_weight=0.5)
    model = get_peft_model(model_of(BertForSequenceClassification), config).eval()
    output = model(**batch)
    regularizer = output.loss - nn.functional.cross_entropy(output.logits, batch["labels"])
    assert regularizer.item() > 0.01
    weigh_classes(model, LOSS, WEIGHTS)
    expected = by_hand(output.logits, batch["labels"]) + regularizer.item()
    assert model(**batch).loss.item() == pytest.approx(expected, rel=1e-5)
