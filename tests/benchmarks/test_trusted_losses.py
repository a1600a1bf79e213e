"""The losses and the estimates of the rivals, against their formulas written out."""

from typing import Any

import pytest
import torch
from programs import imported

losses = imported("trusted_losses")

TORCH = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 3, generator=TORCH, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])
CHANCES = LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)
GIVEN = CHANCES[torch.arange(6), LABELS]
IDS = torch.arange(6)
T = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.0, 0.2, 0.8]], dtype=torch.float64)


def close(found: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-5, atol=1e-6)


def test_the_generalized_cross_entropy_is_its_formula_and_between_its_ends() -> None:
    for q in (0.7, 0.3):
        close(losses.generalized_cross_entropy(q)(LOGITS, LABELS, IDS), (1 - GIVEN**q) / q)
    close(losses.generalized_cross_entropy(1.0)(LOGITS, LABELS, IDS), 1 - GIVEN)


def test_label_smoothing_spreads_a_share_over_all_classes() -> None:
    expected = -0.9 * GIVEN.log() - 0.1 * CHANCES.log().mean(1)
    close(losses.label_smoothing(0.1)(LOGITS, LABELS, IDS), expected)


def test_logit_adjustment_weighs_every_class_by_its_frequency() -> None:
    counts = torch.tensor([70.0, 20.0, 10.0], dtype=torch.float64)
    for tau in (1.0, 2.0):
        prior = (counts / 100) ** tau
        weighed = prior * LOGITS.exp()
        expected = -(weighed[torch.arange(6), LABELS] / weighed.sum(1)).log()
        close(losses.logit_adjustment(counts, tau=tau)(LOGITS, LABELS, IDS), expected)


def test_gold_correction_corrects_doubtful_rows_alone() -> None:
    found = losses.gold_correction(T, first_trusted=4)(LOGITS, LABELS, IDS)
    # The chance of the label as it was given: the sum over what the class may be.
    corrected = -(CHANCES @ T)[torch.arange(6), LABELS].log()
    close(found[:4], corrected[:4])
    close(found[4:], -GIVEN[4:].log())


def test_a_class_that_is_never_given_has_a_finite_loss() -> None:
    never = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = losses.gold_correction(never, first_trusted=1)(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0]))
    assert 5 < found.item() < 20


def test_the_gold_matrix_is_the_mean_answer_to_the_rows_of_each_class() -> None:
    found = losses.gold_matrix(CHANCES, LABELS)
    for label in range(3):
        rows = [CHANCES[row] for row in range(6) if LABELS[row] == label]
        close(found[label], sum(rows) / len(rows))
    close(found.sum(1), torch.ones(3))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_estimate_finds_the_matrix_of_a_model_that_knows_the_given_labels(classes: int) -> None:
    matrix = torch.softmax(3 * torch.eye(classes) + torch.randn(classes, classes, generator=TORCH), -1)
    truth = torch.arange(classes).repeat(5)
    close(losses.gold_matrix(matrix[truth], truth), matrix)


def test_going_on_with_trusted_rows_takes_a_quarter_of_the_steps_at_half_the_rate() -> None:
    first, second = losses.NOISY_THEN_TRUSTED.stages(None)
    assert (first.rows, second.rows, second.share, second.rate) == ("lower", "upper", 0.25, 0.5)
    assert not second.fresh
